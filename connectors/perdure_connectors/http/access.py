"""What a request is refused for by its head, before anything of its body is read.

Without keys, only programs on this machine may ask. A loopback socket alone does not see to that: a web page can make
the browser send requests to 127.0.0.1 (they carry a foreign Origin), or point a name of its own at 127.0.0.1 (they
carry that name as Host). With keys, any machine may ask, and pages of other origins still may not.
"""

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure_connectors.http.problems import problem

LONGEST_HEAD = 32 << 10
MOST_HEADERS = 100
LONGEST_TARGET = 8 << 10
"""Of path and query together."""

Refusal = tuple[int, str]
Rule = Callable[[Scope], Refusal | None]


class Gate:
    """Lets through what no rule refuses."""

    def __init__(self, app: ASGIApp, rules: Sequence[Rule]) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await problem(refusal[0], "HttpError", refusal[1])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})

    def _refusal(self, scope: Scope) -> Refusal | None:
        return next((refusal for rule in self.rules if (refusal := rule(scope))), None)


def rules_of(*, with_keys: bool) -> list[Rule]:
    """Those of a gateway."""
    own = [same_origin, no_change_across_sites]
    return [plain_head, *own] if with_keys else [plain_head, from_this_machine, *own]


def plain_head(scope: Scope) -> Refusal | None:
    """ASCII of a bounded length: nothing behind this has to think of anything else."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > LONGEST_HEAD:
        return 431, f"the headers are too many or too large: {MOST_HEADERS} of {LONGEST_HEAD:,} bytes together may be"
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_TARGET:
        return 414, f"path and query have more than {LONGEST_TARGET:,} bytes: shorten them"
    for name, value in headers:
        if not (name.isascii() and value.isascii()):
            return 400, f"the header {name.decode('ascii', 'replace')!r} is not ASCII: encode it, or leave it out"
    return None


def from_this_machine(scope: Scope) -> Refusal | None:
    """By the address of the peer, and by the name that it called us by."""
    client = scope.get("client")
    if client is not None and not is_loopback(client[0]):
        return 403, f"requests from {client[0]} are refused: without keys, only this machine may ask"
    hosts = Headers(scope=scope).getlist("host")
    if len(hosts) != 1 or not is_loopback(host_of(hosts[0])):
        shown = ", ".join(hosts) or "none"
        return 403, f"Host {shown!r} is refused: without keys, ask as http://127.0.0.1 or http://localhost"
    return None


def same_origin(scope: Scope) -> Refusal | None:
    """What is no page of ours says so by its Origin, or sends none: then it is no page."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    for origin in headers.getlist("origin"):
        if len(hosts) != 1 or not _is_of(origin, hosts[0]):
            return (
                403,
                f"Origin {origin!r} is refused: web pages of other origins may not ask; send from your server",
            )
    return None


def no_change_across_sites(scope: Scope) -> Refusal | None:
    """Browsers say where a request comes from, also where they leave the Origin out."""
    site = Headers(scope=scope).get("sec-fetch-site", "")
    if scope.get("method") in ("GET", "HEAD") or site not in ("cross-site", "same-site"):
        return None
    return 403, f"a {site} request is refused: web pages of other origins may change nothing; send from your server"


def host_of(host: str) -> str:
    """The name or address of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """`localhost`, names under it, and addresses that never leave the machine."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_of(origin: str, host: str) -> bool:
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and rest.lower() == host.lower()
