"""What the folds keep for each entity. Everything here is rebuilt by folding the log again."""

from msgspec import Struct

from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import Came, CancelRule, Ending, Fork, KeyCursor, ListedWait, Owner, Parent, Queued

COMMANDS_KEPT = 8
TERMINAL = frozenset({"completed", "failed", "cancelled", "discarded", "continued"})


class OpenOp(Struct, omit_defaults=True, gc=False):
    """An op that has begun and has no outcome. Steps stand here only between a failure and the next attempt."""

    type: str
    digest: str = ""
    attempt: int = 1
    due: int | None = None
    setter: int = -1
    """Offset of the record that set its timer; a fire that names another changes nothing. A queue's op has no timer
    and no line: here it is where its code opened it. -1 for ops whose line tells that."""
    key: str = ""
    child: str = ""
    purpose: str = ""


class Taken(Struct, omit_defaults=True, gc=False):
    """The event that a wait consumed at log time `at`, so that closing the wait undelivered can give it back."""

    event_id: str
    key: str
    position: int
    at: int


class Crashes(Struct, omit_defaults=True, gc=False):
    """How often a process died while this step may have been running; `alone`: deaths with nothing beside it."""

    count: int = 0
    alone: int = 0
    last_alone: bool = False


class QueuedState(Struct, omit_defaults=True, gc=False):
    """A step in a queue, beside the run that opened it: signs of life touch this alone."""

    opening: Queued
    digest: str
    attempt: int = 1
    dispatches: int = 0
    unclaimed: int = 0
    """Commands in a row that nobody came for."""
    resting: bool = False
    """It failed, and waits for its next attempt."""
    claim: str = ""
    """Who has it; empty while nobody does."""
    member: str = ""
    alone: bool = False
    beat: int = 0
    due: int = 0
    setter: int = -1
    deaths: int = 0
    alone_deaths: int = 0


class RunTimer(Struct, omit_defaults=True, gc=False):
    """A timer of the run itself: `start`, `timeout`, `retry` or `recall`."""

    due: int
    setter: int


class Watcher(Struct, omit_defaults=True, gc=False):
    run: str
    op: str


class ParkedState(Struct, omit_defaults=True, gc=False):
    """Why a run is parked, and under which code."""

    code: str
    message: str


class PausedRun(Struct, omit_defaults=True, gc=False):
    """A run that would have started at log time `due`, by the record at `offset`, were its function not paused."""

    function: str
    offset: int
    due: int


class RunState(Struct, omit_defaults=True, gc=False):
    """A run, but its outcomes: those stand in lines beside it, in log order (`View.lines`)."""

    id: str
    function: str
    status: str
    cause: str = ""
    number: int = 0
    event: Payload | None = None
    arguments: Payload | None = None
    event_id: str = ""
    source: int = -1
    since: int = 0
    came: Came | None = None
    copies: dict[str, int] = {}
    rules: tuple[CancelRule, ...] = ()
    parent: Parent | None = None
    discard_after_ms: int | None = None
    metadata: dict[str, str] = {}
    rerun_of: str = ""
    scheduled: int | None = None
    """When the schedule that began it, or the run of which it is a rerun, was due."""
    ending: Ending | None = None
    traceparent: str = ""
    requested_at: int = 0
    started_at: int = 0
    requested_offset: int = 0
    attempt: int = 1
    open: dict[str, OpenOp] = {}
    waits: dict[str, dict[str, str]] = {}
    """Join key → open waits on it with their conditions, in order of opening."""
    keys: dict[str, KeyCursor] = {}
    taken: dict[str, int] = {}
    """Events consumed by this run (and those it continues), with the log time of that; oldest first."""
    got: dict[str, Taken] = {}
    crashes: dict[str, Crashes] = {}
    watchers: list[Watcher] = []
    timers: dict[str, RunTimer] = {}
    paused: bool = False
    """It stands in `View.paused`."""
    parked: ParkedState | None = None
    tried_from: int = -1
    """Offset at which it was last unparked: with what stands before that, any code may try to go on."""
    unparked: tuple[str, ...] = ()
    """Commands to go on that have come, the last `COMMANDS_KEPT`: their copies change nothing."""
    ended_at: int | None = None
    ended_offset: int = -1
    result: Payload | None = None
    error: ErrorInfo | None = None
    wholes: tuple[int, ...] = ()
    """Offsets of records that are kept whole for this run: its event, arguments or result refer to them."""
    ending_at: int = -1
    """The one of them that has the `ending`, where that is large."""
    fork: Fork | None = None
    recalled: int = 0
    """How many lines of the fork's history have come."""

    @property
    def seed(self) -> str:
        """What its randomness goes by, and the order of its tasks."""
        return self.id if self.fork is None else self.fork.seed

    @property
    def began(self) -> int:
        """When its user code began, by log time, as that code sees it."""
        return self.started_at if self.fork is None else self.fork.began


class Subscription(Struct, omit_defaults=True, gc=False):
    """A run's standing subscription on one key. `hole`: the earliest event that it passed over."""

    run: str
    g: int
    waits: tuple[ListedWait, ...]
    rule: int = -1
    upto: int = -1
    also: tuple[int, ...] = ()
    but: tuple[int, ...] = ()
    event_id: str = ""
    since: int = 0
    came: Came | None = None
    own: int | None = None
    source: int = -1
    until: int | None = None
    lookback_ms: int = 86_400_000
    hole: int | None = None
    blind: bool = False
    """The trigger's own copy has not come yet: nothing here is known to be after it."""


class MatchState(Struct, omit_defaults=True, gc=False):
    """One join key's subscriptions, in order of arrival. Its kept events stand in rows beside it."""

    subs: dict[str, Subscription] = {}


class KeptEvent(Struct, omit_defaults=True, gc=False):
    """An event copy within the look-back. `at` is the event's own log timestamp, where it was taken in.

    `high`: the largest `moment` of all copies up to this one.
    """

    position: int
    event: EventBody
    at: int
    high: int
    came: Came | None = None

    @property
    def moment(self) -> int:
        """When it came: to the topic of events, if it came by that."""
        return self.at if self.came is None else self.came.at


class CronState(Struct, omit_defaults=True, gc=False):
    line: str
    tz: str
    due: int
    setter: int


def count(counts: dict[str, int], key: str, by: int) -> None:
    """One more or less of it; of what there is none nothing is kept."""
    now = counts.get(key, 0) + by
    if now:
        counts[key] = now
    else:
        del counts[key]


class Meta(Struct, omit_defaults=True, gc=False):
    """What a partition knows of itself."""

    inseq: dict[int, int] = {}
    """Source partition → n of the last record taken from it."""
    outseq: dict[int, int] = {}
    """Destination partition → n of the last record sent there."""
    owner: Owner | None = None
    released: bool = True
    """The last owner stopped cleanly."""
    left: list[Owner] = []
    """Who stopped cleanly before their `owner.started` came: it was long on its way."""
    code: str = ""
    """Digest of the current owner's code."""
    codes: list[tuple[int, int]] = []
    """From which offset on the owner's code had which number (0: not known here), for as long as that may matter."""
    known: dict[str, int] = {}
    """Digest → latest number whose paths came here."""
    current: int = 0
    """Number of the active definition."""
    numbers: dict[str, int] = {}
    """Partition 0: digest → its latest number."""
    last_number: int = 0
    ready: dict[int, int] = {}
    paths: dict[str, dict[str, int]] = {}
    """Event name → match path → look-back in milliseconds, of all definitions ever seen."""
    paused: dict[str, int] = {}
    """Function → log time since which its runs do not start."""
    pauses: tuple[str, ...] = ()
    """Partition 0: commands to pause or to go on that have come, the last `COMMANDS_KEPT`: copies change nothing."""
    high: int = 0
    """The largest `KeptEvent.moment` of a copy that came here."""
    moved: int = 0
    """How far folds count ahead of the log's own offsets: it goes on where the log ended that it was copied from."""
    imported: int = -1
    """Offset, in that log, of the last record that was copied from it."""
    live: dict[str, int] = {}
    """Function → how many of its runs are known and have not ended."""
    waiting: dict[str, int] = {}
    """Function → how many of them stand in `View.paused`."""
    counted: bool = False
    """Both are. A state that was stored before they were kept is counted once, when it is opened."""
