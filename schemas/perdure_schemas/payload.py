"""What user data looks like inside a record: raw JSON, or a pointer to the one place where it is stored."""

from msgspec import UNSET, Raw, Struct, UnsetType

INLINE_LIMIT_BYTES = 4096
"""A payload above this is stored once, in the record that brought it, and referred to by all others."""


class Ref(Struct, frozen=True, gc=False):
    """Where in the journal a payload stands: the field of the record at this partition and offset."""

    partition: int
    offset: int


class Payload(Struct, frozen=True, omit_defaults=True, gc=False):
    """Exactly one of the two is set. `encoded` tells that an app's codec made it (base64 in a JSON string)."""

    inline: Raw | UnsetType = UNSET
    ref: Ref | None = None
    encoded: bool = False


class ErrorInfo(Struct, frozen=True, omit_defaults=True, gc=False):
    """An exception as the log keeps it: enough to show it, to match its class, to build it again."""

    type: str
    """Qualified name of the class, e.g. `shop.orders.CardDeclined`."""
    message: str
    traceback: str = ""
    bases: tuple[str, ...] = ()
    """Qualified names of the base classes, so that `caused_by(Base)` works without importing."""
    attempts: int = 1
    step: str = ""
    run: str = ""
    args: Raw | UnsetType = UNSET
    """Constructor arguments of a `NonRetriable` subclass, which crosses the log as itself."""
