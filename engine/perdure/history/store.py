"""Where history lies, and what it can be asked. One protocol; every store passes the same tests.

Methods do their I/O where they are called: whoever has a loop calls them in a thread. One thread at a time writes; it
may be asked from any.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from perdure.errors import PerdureError
from perdure.flow.expressions import Condition
from perdure.flow.tables import Backing
from perdure.history.projection import Writes
from perdure.history.rows import Changes, EventRow, Mark, OpRow, RunData, RunRow, Standing, Use
from perdure_schemas.event import EventBody

SCANNED_ROWS = 10_000
"""A page looks at so many rows at most that turn out not to be wanted; its cursor says where the next goes on."""
_DECODE_EVENT = msgspec.json.Decoder(EventBody).decode


class NoHistory(PerdureError):
    """There is none where somebody looks for it, or it cannot be read."""


class HistoryDown(NoHistory):
    """It does not answer at present: the same may be tried again."""


class Overtaken(PerdureError):
    """Somebody else has written a partition since it was last read here: what was made of it counts for nothing."""


class Cursor(NamedTuple):
    """The last row of a page: when, and its number."""

    at: int
    number: int

    def __str__(self) -> str:
        return f"{self.at}-{self.number}"


def parse_cursor(text: str) -> Cursor | None:
    """None at the beginning. Raises `ValueError` for what no page gave."""
    if not text:
        return None
    at, _, number = text.partition("-")
    if not (text.isascii() and at.isdecimal() and number.isdecimal() and max(len(at), len(number)) <= 18):
        raise ValueError(f"cursor {text!r} is not one that a page gave: leave it out to begin with the newest")
    return Cursor(int(at), int(number))


class RunQuery(Struct, frozen=True):
    """Which runs, by all that is set; newest first. `since` and `until` (not included) are of the request.

    `metadata`: a key and its value. `where`: a condition over `event`, the run's trigger; what it is asked of is found
    by the rest, a page's share at a time.
    """

    function: str = ""
    status: str = ""
    since: int | None = None
    until: int | None = None
    event_id: str = ""
    metadata: tuple[str, str] | None = None
    where: Condition | None = None
    limit: int = 50
    cursor: Cursor | None = None


class EventQuery(Struct, frozen=True):
    """Which events, newest first, by when they were received; otherwise as `RunQuery`."""

    name: str = ""
    since: int | None = None
    until: int | None = None
    where: Condition | None = None
    limit: int = 50
    cursor: Cursor | None = None


class RunsPage(NamedTuple):
    """`cursor`: where the next page begins, None at the end. A page may be short, or empty, and not the last."""

    runs: list[RunRow]
    cursor: Cursor | None


class EventsPage(NamedTuple):
    events: list[EventRow]
    cursor: Cursor | None


class RunPage(NamedTuple):
    """All that is known of one run: its waterfall, and whom it started."""

    run: RunRow
    data: RunData
    blind: bool
    """Records of it were trimmed before they were read."""
    ops: list[OpRow]
    marks: list[Mark]
    children: list[RunRow]
    reruns: list[RunRow]


class EventPage(NamedTuple):
    """An event, the runs that it started, and what else it did."""

    event: EventRow
    runs: list[RunRow]
    uses: list[Use]


class Tallied(NamedTuple):
    """How many runs of a function: see `tallies.py`; `at` 0: in all."""

    function: str
    at: int
    what: str
    runs: int


class LastFailed(NamedTuple):
    """The last run of a function that failed, and its error as JSON."""

    run: str
    ended_at: int
    error: bytes | None


class History(Protocol):
    """See the module's text."""

    def open(self) -> str | None:
        """Makes it if it is not there. Why it is empty now, if it had been made by other code or was damaged.

        Raises `NoHistory`; `HistoryDown`, as every method may, after which it may be called again.
        """
        ...

    def close(self) -> None:
        """Idempotent."""
        ...

    def standing(self, partition: int) -> Standing:
        """How far a partition was read."""
        ...

    def state(self, partition: int) -> Backing:
        """What `write` was given of the projection's state."""
        ...

    def write(self, partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
        """In one transaction. Raises `Overtaken`."""
        ...

    def lose_sight(self, partition: int) -> None:
        """Of runs that have not ended: records of theirs may be gone."""
        ...

    def retain(self, since_ms: int, *, limit: int = 1_000) -> int:
        """Delete up to `limit` runs that ended before, and events received before; how many there were."""
        ...

    def clear(self) -> None:
        """Forget everything, to be read again."""
        ...

    def runs(self, query: RunQuery) -> RunsPage: ...

    def run(self, run: str) -> RunPage | None: ...

    def events(self, query: EventQuery) -> EventsPage: ...

    def event(self, event: str) -> EventPage | None: ...

    def tallies(self, size: int, since: int) -> list[Tallied]:
        """From the one on in which `since` lies: by function and time, but lengths by function alone.

        Those are counted in larger parts, and so from a little before.
        """
        ...

    def last_failed(self, function: str, since: int) -> LastFailed | None:
        """Of those that were requested since then."""
        ...

    def live(self, status: str, limit: int, function: str = "") -> int:
        """How many runs are so now, of one function if it is said; counted up to `limit`."""
        ...

    def delayed(self, limit: int) -> int:
        """How many of the runs that are queued start at a time that has not come; of the first `limit`."""
        ...

    def stands(self) -> Mapping[int, int]:
        """Partition → how far it was read, by whoever writes."""
        ...

    def remembered(self, prefix: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Of what `write` was given as the state of the projections, of all partitions: see `remembered.py`."""
        ...


class _Seen(Struct, gc=False):
    """An event as expressions see it (`event_view`), decoded in one go: a page may have to look at thousands."""

    id: str
    name: str
    data: Any
    user: Any = {}
    ts: int | None = None
    v: str = ""


class _Trigger(Struct, gc=False):
    """A `Payload` of an event."""

    inline: _Seen | None = None


_DECODE_SEEN = msgspec.json.Decoder(_Seen).decode
_DECODE_TRIGGER = msgspec.json.Decoder(_Trigger).decode


def matches(where: Condition, body: bytes) -> bool:
    """Whether an event is meant."""
    return where.matches(asdict(_DECODE_SEEN(body)), None)


def trigger_matches(where: Condition, payload: bytes | None) -> bool:
    """The same of a run's. Nothing is true of one that is too large to be there, or not in the open."""
    if payload is None:
        return False
    try:
        seen = _DECODE_TRIGGER(payload).inline
    except msgspec.ValidationError:  # a codec's text
        return False
    return seen is not None and where.matches(asdict(seen), None)


def decode_body(body: bytes) -> EventBody:
    return _DECODE_EVENT(body)
