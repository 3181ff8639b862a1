"""Times as people say them."""

from datetime import UTC, datetime, tzinfo

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, PayloadError

_LATEST_MS = 1 << 53


def moment_ms(text: str, now_ms: int, what: str, zone: tzinfo | None = UTC) -> int:
    """`24h`: so long before now · `2026-11-21T18:00`: in `zone` unless it names one · milliseconds since the epoch.

    `zone` None is that of this process. Raises `PayloadError`.
    """
    if text.isascii() and text.isdecimal():
        return min(int(text[:20]), _LATEST_MS)
    try:
        return max(0, now_ms - parse_ms(text))
    except DefinitionError:
        pass
    try:
        time = datetime.fromisoformat(text)
        known = time if time.tzinfo is not None or zone is None else time.replace(tzinfo=zone)
        return max(0, int(known.timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise PayloadError(
            f"{what} {text[:40]!r}: say 1h, 7d, a time such as 2026-11-21T18:00, or milliseconds since the epoch"
        ) from None
