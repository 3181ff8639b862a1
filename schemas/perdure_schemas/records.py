"""The journal's records, one struct a kind. Stored logs outlive code: fields are only ever added, with a default.

`from` numbers what a fold sent to another partition (dense for each source and destination); `orig` keeps the
place and time of a record that was imported from another log, and folds see it instead of the record's own.
"""

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType, field

from perdure_schemas.definition import Definition
from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo, Payload

V = 1
"""The version this code writes in `v`. A reader that meets a higher one halts its partition."""


class Orig(Struct, frozen=True, omit_defaults=True, gc=False):
    """Where and when an imported record stood in the log that it came from."""

    offset: int
    at: int
    past: bool = False
    """It is here to be looked at: what it made others do is not done again (`perdure import`)."""


class Owner(Struct, frozen=True, gc=False):
    """Who owned the partition: the highest number read + 1, with a random token. First of a number wins."""

    number: int
    token: str


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    v: int
    from_: tuple[int, int] | None = field(default=None, name="from")
    orig: Orig | None = None


class _Kind(Record, frozen=True, tag_field="kind", omit_defaults=True):
    """Base of the tagged records (msgspec wants the tag field on a class of its own)."""


class AppDefined(_Kind, frozen=True, tag="app.defined", omit_defaults=True):
    """A starting pod's code, appended to partition 0. `activate` gives an older digest a new number."""

    definition: Definition
    activate: bool = False
    events: tuple[int, ...] = ()
    """Where the partitions of the topic of events ended then. What stood there before the app's first is not its."""


class AppPaths(_Kind, frozen=True, tag="app.paths", omit_defaults=True):
    """Partition 0 to all: from here on copy events for these paths, then answer `app.ready`."""

    number: int
    definition: Definition


class AppReady(_Kind, frozen=True, tag="app.ready", omit_defaults=True):
    number: int


class AppActivated(_Kind, frozen=True, tag="app.activated", omit_defaults=True):
    """All partitions copy: from here on the definition of this number decides."""

    number: int


class PauseRequested(_Kind, frozen=True, tag="function.pause_requested", omit_defaults=True):
    """Somebody pauses a function, or lets it go on; appended to partition 0."""

    function: str
    paused: bool
    command: str


class FunctionPaused(_Kind, frozen=True, tag="function.paused", omit_defaults=True):
    """Partition 0 to all: from here on no run of the function starts, or all that wait do."""

    function: str
    paused: bool


class OwnerStarted(_Kind, frozen=True, tag="owner.started", omit_defaults=True):
    owner: Owner
    code: str
    folds: int


class OwnerReleased(_Kind, frozen=True, tag="owner.released", omit_defaults=True):
    """A clean stop: no step was running, so none of them counts an attempt by crash."""

    owner: Owner


class Came(Struct, frozen=True, gc=False):
    """Where and when an event came to the topic of events, by its brokers' clock.

    Pods take in what came to several partitions side by side, so that what came later may be taken in first.
    """

    partition: int
    offset: int
    at: int


class EventReceived(_Kind, frozen=True, tag="event.received", omit_defaults=True):
    event: EventBody
    came: Came | None = None
    """None: it was written to the journal itself, and came when it was taken in."""


class EventKeyed(_Kind, frozen=True, tag="event.keyed", omit_defaults=True):
    """Intake's copy for one join key. `at` is the event's own log timestamp where it was taken in."""

    key: str
    event: EventBody
    at: int
    came: Came | None = None


class Parent(Struct, frozen=True, gc=False):
    run: str
    op: str


class CancelRule(Struct, frozen=True, omit_defaults=True, gc=False):
    """A `cancel_on` with its values filled in from the trigger. `where` speaks of `async` alone."""

    key: str
    where: str = ""
    timeout_ms: int | None = None


class Ending(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a handler run learns of the run that ended. `results` has the last result of each step by name."""

    run: str
    function: str
    status: str
    error: ErrorInfo | None = None
    event: Payload | None = None
    results: dict[str, Payload] = {}


class KeyCursor(Struct, omit_defaults=True, gc=False):
    """What a run consumed under one join key, by position: all up to `upto` but `but`, and `also`."""

    g: int = 0
    upto: int = -1
    also: list[int] = []
    but: list[int] = []
    elsewhere: dict[str, int] = {}
    """Events consumed through another key, with their position under this one."""


class Heritage(Struct, frozen=True, omit_defaults=True, gc=False):
    """What `continue_as` hands on: what was consumed, so that no event is seen twice."""

    keys: dict[str, KeyCursor] = {}
    taken: dict[str, list[str]] = {}


class Fork(Struct, frozen=True, gc=False):
    """A run that begins with a part of another run's history, which comes after its request."""

    seed: str
    """The run by whose id its randomness goes, and the order of its tasks: the first of a line of forks."""
    began: int
    """When that one's user code began, by log time: a replay sees the same."""
    lines: int
    """So many `run.recalled` are to come; the run starts with the last one."""
    code: int = 0
    """Number of the code that took that one's first step; 0 if it is not known here."""


class RunRequested(_Kind, frozen=True, tag="run.requested", omit_defaults=True):
    run: str
    function: str
    cause: str
    """`event`, `call`, `enqueue`, `cron`, `rerun`, `fork`, `handler`, `continue` or `backfill`."""
    number: int = 0
    """The definition that asked for it; 0 lets the receiving fold take its current one."""
    event: Payload | None = None
    """The trigger, a whole EventBody; a ref points to the record that has it in `event`."""
    arguments: Payload | None = None
    """JSON `[[positional…], {keyword: …}]` of a background run."""
    event_id: str = ""
    source: int = -1
    """Partition that took the trigger in: `copies` are its numbers."""
    since: int | None = None
    """Log timestamp after which events count for this run's waits; None: this record's own."""
    came: Came | None = None
    """That of the trigger."""
    copies: dict[str, int] = {}
    """Join key → n of the trigger's own copy there, so that 'after the trigger' is an order, not a clock."""
    rules: tuple[CancelRule, ...] = ()
    parent: Parent | None = None
    due: int | None = None
    delay_ms: int | None = None
    discard_after_ms: int | None = None
    metadata: dict[str, str] = {}
    command: str = ""
    rerun_of: str = ""
    ending: Ending | None = None
    heritage: Heritage | None = None
    scheduled: int | None = None
    """When its schedule was due, in ms; a rerun keeps it."""
    traceparent: str = ""
    """W3C trace context that it was asked for in. Nothing is decided by it."""
    fork: Fork | None = None


class RunRecalled(_Kind, frozen=True, tag="run.recalled", omit_defaults=True):
    """A line of a fork's history. Whoever asks for the fork appends them in order after its request; copies are idle.

    `line` is a record of the other run, with the fork's id in place of that one's, and of a step without its digest:
    what was recalled is handed out for its op, whatever the arguments are by now.
    """

    run: str
    n: int
    """0, 1, … below the `lines` of the request."""
    at: int
    """Log time of the record that `line` was."""
    line: Raw


class RunCancelRequested(_Kind, frozen=True, tag="run.cancel_requested", omit_defaults=True):
    run: str
    command: str = ""
    reason: str = ""


class RunRerunRequested(_Kind, frozen=True, tag="run.rerun_requested", omit_defaults=True):
    run: str
    new_run: str
    command: str = ""
    via: tuple[str, ...] = ()
    """See `Watch`: the runs whose partitions it still has to pass, the last of them `run`."""


class RunUnparked(_Kind, frozen=True, tag="run.unparked", omit_defaults=True):
    run: str
    command: str = ""


class AskedOp(Struct, frozen=True, omit_defaults=True, gc=False):
    """One side of a mismatch: what the log holds, or what the code asked for."""

    op: str
    digest: str = ""
    input: Raw | UnsetType = UNSET


class RunParked(_Kind, frozen=True, tag="run.parked", omit_defaults=True):
    """The code asked for another op than the log holds. An opinion: counts while `owner` is current."""

    run: str
    owner: Owner
    code: str
    message: str
    recorded: AskedOp | None = None
    requested: AskedOp | None = None


class RunErrored(_Kind, frozen=True, tag="run.errored", omit_defaults=True):
    """The function itself raised and is retried whole after `retry_in_ms`."""

    run: str
    attempt: int
    error: ErrorInfo
    retry_in_ms: int


class RunFinished(_Kind, frozen=True, tag="run.finished", omit_defaults=True):
    run: str
    status: str
    """`completed`, `failed` or `continued`."""
    result: Payload | None = None
    error: ErrorInfo | None = None
    closes: tuple[str, ...] = ()
    """Ops that this end closes although their own op.closed may stand after it."""
    successor: EventBody | None = None


class RunWatched(_Kind, frozen=True, tag="run.watched", omit_defaults=True):
    """Somebody awaits this run's end (`result`), or asks once for its `status`."""

    run: str
    watcher: Parent
    want: str
    via: tuple[str, ...] = ()
    """See `Watch`: the runs whose partitions it still has to pass, the last of them `run`."""


class RunAnswered(_Kind, frozen=True, tag="run.answered", omit_defaults=True):
    """The answer to a call or a watch, in the partition of the run that asked."""

    run: str
    op: str
    of: str
    status: str
    result: Payload | None = None
    error: ErrorInfo | None = None


class StepCompleted(_Kind, frozen=True, tag="step.completed", omit_defaults=True):
    run: str
    op: str
    attempt: int
    digest: str
    result: Payload
    input: Raw | UnsetType = UNSET
    """`[[positional…], {keyword: …}]` up to 4 KiB, for people to read; longer ones have their digest alone."""
    took_us: int = 0
    outlived_cancel: bool = False
    """The run's code cancelled it meanwhile, and its body swallowed that: its task went on, as it does on replay."""


class StepFailed(_Kind, frozen=True, tag="step.failed", omit_defaults=True):
    """An attempt that raised. With `retry_in_ms` the op stays open; without, this is its outcome."""

    run: str
    op: str
    attempt: int
    digest: str
    error: ErrorInfo
    retry_in_ms: int | None = None
    input: Raw | UnsetType = UNSET
    took_us: int = 0
    claim: str = ""
    """Of a step in a queue: the claim that the attempt ran under. Another one's failure counts for nothing."""
    outlived_cancel: bool = False
    """As in `step.completed`, by this attempt or an earlier one."""


class StepAttempted(_Kind, frozen=True, tag="step.attempted", omit_defaults=True):
    """Written at recovery for a step that may have been running when the process died."""

    run: str
    op: str
    owner: Owner
    alone: bool = False


class StepClaimed(_Kind, frozen=True, tag="step.claimed", omit_defaults=True):
    """A pool member asks for a step of its queue; with `beat` it says that it still has it."""

    run: str
    op: str
    attempt: int
    claim: str
    """A token of the member's own, for this one claim."""
    member: str = ""
    """The process, for people to read."""
    alone: bool = False
    """Nothing else runs in that process, nor will while this step does."""
    beat: int = 0
    """0 asks; 1, 2, … prolong the lease, each once."""


class StepAnswered(_Kind, frozen=True, tag="step.answered", omit_defaults=True):
    """The owner tells a claim's member what the folds made of it. A message: no fold reads it."""

    run: str
    op: str
    claim: str
    granted: bool
    why: str = ""
    deaths: int = 0
    """How often a member died with it, by now: a command may be older. `alone`: with nothing beside it."""
    alone: int = 0


class StepReleased(_Kind, frozen=True, tag="step.released", omit_defaults=True):
    """A claimed step that its member gives back. `died`: said by others, who know that the member is no more."""

    run: str
    op: str
    claim: str
    died: bool = False


class Sleep(Struct, frozen=True, tag_field="type", tag="sleep", omit_defaults=True, gc=False):
    for_ms: int | None = None
    until: int | None = None
    purpose: str = ""
    """`timeout` for the durable ctx.timeout."""


class Wait(Struct, frozen=True, tag_field="type", tag="wait", omit_defaults=True, gc=False):
    key: str
    event: str
    where: str = ""
    timeout_ms: int | None = None


class Call(Struct, frozen=True, tag_field="type", tag="call", omit_defaults=True, gc=False):
    """Another function's run: awaited (`call`) or only started (`enqueue`)."""

    function: str
    run: str
    arguments: Payload
    awaited: bool
    delay_ms: int | None = None
    discard_after_ms: int | None = None
    metadata: dict[str, str] = {}
    rules: tuple[CancelRule, ...] = ()
    traceparent: str = ""


class Send(Struct, frozen=True, tag_field="type", tag="send", omit_defaults=True, gc=False):
    events: tuple[EventBody, ...]


class Watch(Struct, frozen=True, tag_field="type", tag="watch", omit_defaults=True, gc=False):
    run: str
    want: str
    """`result` or `status`."""
    via: tuple[str, ...] = ()
    """A run that this one had run again is requested by the partition of the first: what is asked of it goes the same
    way, so as not to overtake its request."""


class CancelRun(Struct, frozen=True, tag_field="type", tag="cancel", omit_defaults=True, gc=False):
    run: str
    reason: str = ""


class RerunRun(Struct, frozen=True, tag_field="type", tag="rerun", omit_defaults=True, gc=False):
    run: str
    new_run: str
    via: tuple[str, ...] = ()
    """See `Watch`."""


class RetryRule(Struct, frozen=True, omit_defaults=True, gc=False):
    """How failed attempts are followed by others. `never_on`: qualified names of exceptions."""

    limit: int
    first_ms: int
    factor: float
    longest_ms: int
    never_on: tuple[str, ...] = ()


class Queued(Struct, frozen=True, tag_field="type", tag="queued", omit_defaults=True, gc=False):
    """A step for a worker pool: all that a member needs of its caller."""

    queue: str
    step: str
    """The name it was defined under, by which a member finds it; the op has the name it was called by."""
    arguments: Payload
    """JSON `[[positional…], {keyword: …}]`."""
    retries: RetryRule
    lease_ms: int
    """Without a sign of life for so long, the member that has it counts as dead."""
    timeout_ms: int | None = None
    traceparent: str = ""


Opening = Sleep | Wait | Call | Send | Watch | CancelRun | RerunRun | Queued


class OpOpened(_Kind, frozen=True, tag="op.opened", omit_defaults=True):
    run: str
    op: str
    digest: str
    opening: Opening


class OpClosed(_Kind, frozen=True, tag="op.closed", omit_defaults=True):
    """User code cancelled an op before its result was delivered to it."""

    run: str
    op: str


class TimerFired(_Kind, frozen=True, tag="timer.fired", omit_defaults=True):
    """Takes effect if `setter` set the timer that `entity` has now, and log time has reached its due time."""

    entity: str
    """A run id, or `cron:<function id>`."""
    timer: str
    """An op of the run, or `start`, `timeout`, `retry`; empty for a schedule."""
    setter: int
    next: int | None = None
    """The schedule's fire after this one, an absolute time."""
    scheduled: int | None = None
    """The latest of several fires that were missed, which this one makes up for; None: the one that was due."""


class CronScheduled(_Kind, frozen=True, tag="cron.scheduled", omit_defaults=True):
    function: str
    line: str
    tz: str
    due: int


class ListedWait(Struct, frozen=True, omit_defaults=True, gc=False):
    op: str
    where: str = ""


class MatchSubscribed(_Kind, frozen=True, tag="match.subscribed", omit_defaults=True):
    """A run's numbered subscription on one key; an empty list of waits ends it. One offer answers it."""

    run: str
    key: str
    g: int
    waits: tuple[ListedWait, ...] = ()
    rule: int = -1
    """Index of the run's cancel rule that this stands for; -1 for its waits."""
    upto: int = -1
    also: tuple[int, ...] = ()
    but: tuple[int, ...] = ()
    event_id: str = ""
    since: int = 0
    came: Came | None = None
    own: int | None = None
    """n of the trigger's own copy on this key (of `source`), where it has one."""
    source: int = -1
    until: int | None = None
    lookback_ms: int = 86_400_000


class MatchOffered(_Kind, frozen=True, tag="match.offered", omit_defaults=True):
    """The matcher's answer: the earliest kept event after the trigger that a listed wait accepts."""

    run: str
    key: str
    g: int
    event_id: str
    position: int
    event: Payload
    """A whole EventBody; a ref points to the event.keyed record that has it in `event`."""
    op: str = ""
    rule: int = -1
    hole: int | None = None
    """Position of the earliest event passed over, which keeps the cursor below it."""


class RunReported(Struct, frozen=True, tag_field="kind", tag="run.reported", gc=False):
    """Progress of a run. On the logs topic; no fold reads it."""

    v: int
    run: str
    at: int
    fields: dict[str, str | int | float | bool | None]


LogLevel = Literal["debug", "info", "warning", "error", "critical"]


class RunLogged(Struct, frozen=True, tag_field="kind", tag="run.logged", omit_defaults=True, gc=False):
    """A line that a run's code logged. On the logs topic, best effort; no fold reads it.

    Texts are the user's, as they are: who shows them spells out what would steer a terminal or a page.
    """

    v: int
    run: str
    at: int
    level: LogLevel
    """The standard one at or below the line's own."""
    logger: str
    message: str
    op: str = ""
    """The step that logged it; empty for code outside steps."""
    attempt: int = 0
    error: str = ""
    """The traceback of the exception that was logged with it."""


AnyLogged = RunReported | RunLogged
"""What the logs topic carries."""


class StepCommand(Struct, frozen=True, tag_field="kind", tag="step.command", omit_defaults=True, gc=False):
    """A step that waits in its queue. On the commands topic, at least once: the journal decides who runs it."""

    v: int
    run: str
    op: str
    digest: str
    attempt: int
    step: Queued
    """Its arguments are inline, whatever their size: a member needs nothing else."""
    suspect: bool = False
    """Members died with it: it is claimed by one that runs nothing else."""


AnyRecord = (
    AppDefined
    | AppPaths
    | AppReady
    | AppActivated
    | OwnerStarted
    | OwnerReleased
    | PauseRequested
    | FunctionPaused
    | EventReceived
    | EventKeyed
    | RunRequested
    | RunRecalled
    | RunCancelRequested
    | RunRerunRequested
    | RunUnparked
    | RunParked
    | RunErrored
    | RunFinished
    | RunWatched
    | RunAnswered
    | StepCompleted
    | StepFailed
    | StepAttempted
    | StepClaimed
    | StepAnswered
    | StepReleased
    | OpOpened
    | OpClosed
    | TimerFired
    | CronScheduled
    | MatchSubscribed
    | MatchOffered
)
