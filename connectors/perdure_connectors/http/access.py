"""Without keys, only programs on this machine may ask.

A loopback socket alone does not see to that: a web page can make the browser send requests to 127.0.0.1 (they carry a
foreign Origin), or point a name of its own at 127.0.0.1 (they carry that name as Host).
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure_connectors.http.problems import problem


class LoopbackOnly:
    """Refuses what does not come from this machine, or comes from a web page elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = refused(scope) if scope["type"] in ("http", "websocket") else ""
        if not refusal:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await problem(403, "HttpError", refusal)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "loopback only"})


def refused(scope: Scope) -> str:
    """Why this request may not pass, or nothing."""
    headers = Headers(scope=scope)
    client = scope.get("client")
    if client is not None and not is_loopback(client[0]):
        return f"requests from {client[0]} are refused: without keys, only this machine may ask"
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(host_of(hosts[0])):
        shown = ", ".join(hosts) or "none"
        return f"Host {shown!r} is refused: without keys, ask as http://127.0.0.1 or http://localhost"
    for origin in headers.getlist("origin"):
        if not _same_origin(origin, hosts[0]):
            return f"Origin {origin!r} is refused: web pages of other origins may not ask; send from your server"
    return ""


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


def _same_origin(origin: str, host: str) -> bool:
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and rest.lower() == host.lower()
