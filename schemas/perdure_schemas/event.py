"""Events: facts from outside, as every journal record carries them."""

from msgspec import Raw, Struct, field


class EventBody(Struct, frozen=True, omit_defaults=True, gc=False):
    """An accepted event. `data` and `user` stay raw JSON objects until user code needs them."""

    id: str
    name: str
    data: Raw
    user: Raw = field(default_factory=lambda: Raw(b"{}"))
    ts: int | None = None
    """The producer's own time in milliseconds since the epoch. It may delay a start; otherwise it is data."""
    v: str = ""
    """The producer's version of the event's shape; nothing of ours."""
    traceparent: str = ""
    """W3C trace context that it was sent in; empty where there was none. Nothing is decided by it."""
