"""The dashboard's files, as they are in the wheel. They hold no data: what a page shows it asks `/v1` for.

Links are relative, so that the gateway may be mounted under any path, and which page is shown stands behind the `#`.
"""

from hashlib import blake2b
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_STATIC = Path(__file__).parent / "static"
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # Text becomes markup nowhere: the browser refuses innerHTML and its like altogether.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Asked again each time, answered 304: a page and its modules are always of one version.
    "cache-control": "no-cache",
}


class _File:
    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.media_type = _TYPES[path.suffix]
        self.etag = f'"{blake2b(self.content, digest_size=12).hexdigest()}"'

    def answer(self, request: Request) -> Response:
        headers = {**HEADERS, "etag": self.etag}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def routes() -> list[Route]:
    """The page at `/`, and its files below `/dashboard/`: those that are there, and no others."""
    files = {path.name: _File(path) for path in sorted(_STATIC.iterdir())}
    page = files.pop(_PAGE)
    return [_route("/", page), *(_route(f"/dashboard/{name}", file) for name, file in files.items())]


def _route(path: str, file: _File) -> Route:
    async def answer(request: Request) -> Response:
        return file.answer(request)

    return Route(path, answer)
