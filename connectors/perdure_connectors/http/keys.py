"""Whether a request brings a key, and whether that may do what is asked."""

from starlette.requests import Request

from perdure.errors import KeyRefused, ScopeMissing
from perdure.sdk.keys import Keyring, Scope

_BRING = (
    "send 'Authorization: Bearer KEY' (Perdure's own clients and commands take the key from PERDURE_API_KEY); "
    "`perdure keys new` makes one"
)


def authorize(request: Request, scope: Scope) -> None:
    """Raises `KeyRefused` or `ScopeMissing`, unless the engine has no keys and so asks for none."""
    keyring: Keyring = request.app.state.keys
    if not keyring:
        return
    grant = keyring.find(_presented(request))
    if grant is None:
        raise KeyRefused(f"the engine does not know this API key, it may have been replaced by a newer one: {_BRING}")
    if scope not in grant.scopes:
        raise ScopeMissing(
            f"the API key {grant.name!r} may {' and '.join(sorted(grant.scopes))}, and this takes one that may {scope}:"
            f" ask whoever runs the engine (`perdure keys new --scope {scope}`)"
        )


def _presented(request: Request) -> str:
    """The key of the header; else that of the path, where Inngest's clients have it."""
    given = request.headers.getlist("authorization")
    if len(given) > 1:
        raise KeyRefused(f"there are several Authorization headers, of which none counts: {_BRING}")
    if given:
        scheme, _, key = given[0].partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise KeyRefused(f"the Authorization header has no API key: {_BRING}")
        return key.strip()
    in_path: str | None = request.path_params.get("key")
    if in_path is None:
        raise KeyRefused(f"this takes an API key: {_BRING}")
    return in_path
