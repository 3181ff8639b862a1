"""What user data looks like inside a record: raw JSON, or a pointer to the one place where it is stored.

{"inline": …}                        as it is
{"ref": {"partition", "offset"}}     in another record of the journal
{"stored": {"digest", "bytes"}}      outside the log, in the place that an engine's `payloads=` names
"""

from msgspec import UNSET, Raw, Struct, UnsetType

INLINE_LIMIT_BYTES = 4096
"""A payload above this is stored once, in the record that brought it, and referred to by all others."""


class Ref(Struct, frozen=True, gc=False):
    """Where in the journal a payload stands: the field of the record at this partition and offset."""

    partition: int
    offset: int


RESULTS_LIMIT_BYTES = 2 << 20
"""What the record that starts a handler has of the results of the run that ended; the largest are left out first."""


class Stored(Struct, frozen=True, gc=False):
    """A payload outside the log, known by its content: the digest is its name there."""

    digest: str
    """`b2-` and the blake2b-256 of the bytes, in hex."""
    bytes: int


class Payload(Struct, frozen=True, omit_defaults=True, gc=False):
    """One of inline, ref and stored is set; none where it was left out as too large (results for a handler).

    `encoded` tells that an app's codec made it (as base64 in a JSON string, if it is inline).
    """

    inline: Raw | UnsetType = UNSET
    ref: Ref | None = None
    encoded: bool = False
    stored: Stored | None = None


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
