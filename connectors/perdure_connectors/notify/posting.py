"""One POST, to a destination whose address is often a secret: no error repeats it, since errors stand in the log."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from perdure.errors import DefinitionError, PerdureError, RetryAfter

TIMEOUT_S = 15
LONGEST_PAUSE_S = 3600


class Undelivered(PerdureError):
    """A destination did not take a message."""


def check_url(url: str, what: str) -> None:
    """Raises `DefinitionError`, without the URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise DefinitionError(f"{what}: an address that begins with https:// is needed")


async def post(url: str, body: bytes, headers: Mapping[str, str], what: str) -> None:
    """Raises `Undelivered` unless the answer is 2xx, `RetryAfter` if it says when to come again."""
    try:
        import aiohttp
    except ImportError:
        raise DefinitionError(f"{what} needs aiohttp: pip install 'perdure[server]'") from None
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            status, pause = answer.status, answer.headers.get("retry-after", "")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Undelivered(f"{what} cannot be reached: {type(error).__name__}") from None
    if not 200 <= status < 300:
        if pause.isascii() and pause.isdigit() and len(pause) < 6:
            raise RetryAfter(f"{min(int(pause), LONGEST_PAUSE_S)}s", f"{what} answered {status}")
        raise Undelivered(f"{what} answered {status}")
