"""What a client can ask of an engine, in this process or over HTTP. Engine, gateway and CLI speak only this."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import UNSET, Raw, Struct, UnsetType

from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import Ending, LogLevel, RunLogged

RunStatus = Literal["queued", "running", "suspended", "parked", "completed", "failed", "cancelled", "discarded"]


class Enqueue(Struct, frozen=True, omit_defaults=True):
    """A background run by name. `arguments`: JSON `[[positional…], {keyword: …}]`.

    `rerun_of`: the run that it goes again for, with what people have changed in its event or arguments.
    """

    function: str
    arguments: Raw
    idempotency_key: str = ""
    delay_ms: int | None = None
    discard_after_ms: int | None = None
    metadata: dict[str, str] = {}
    rerun_of: str = ""
    traceparent: str = ""


class ForkLine(Struct, frozen=True):
    """A record of the other run, as JSON text, and its log time."""

    at: int
    line: str


class ForkAsk(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A run of `function` that begins with another one's history: `total` lines, from the `first` on in this part.

    Parts of one fork have the same `key`, and all else alike; any of them may come again. `seed`, `began` and `code`
    are as in `records.Fork`. One of `event` and `arguments` is set, or neither for a schedule.
    """

    function: str
    key: str
    of: str
    """The run that it is made of, for people to see."""
    seed: str
    began: int
    total: int
    lines: tuple[ForkLine, ...]
    first: int = 0
    code: int = 0
    event: EventBody | None = None
    event_id: str = ""
    arguments: Payload | None = None
    ending: Ending | None = None
    scheduled: int | None = None
    metadata: dict[str, str] = {}


class RunOutcome(Struct, frozen=True, omit_defaults=True):
    """How a run ended. `result` is its JSON, set when `status` is `completed`."""

    run_id: str
    status: RunStatus
    result: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None


class RunSummary(Struct, frozen=True, omit_defaults=True):
    """One line of `runs list`. Times are milliseconds since the epoch, by the log's clock."""

    id: str
    function: str
    status: RunStatus
    cause: str = ""
    event_id: str = ""
    requested_at: int = 0
    ended_at: int | None = None
    parent: str = ""
    rerun_of: str = ""
    metadata: dict[str, str] = {}
    started_at: int | None = None
    due: int | None = None
    """When it is to start, or to be tried again as a whole."""


class RunList(Struct, frozen=True):
    """Runs, newest first. The cursor of the next page is empty at the end; a page may be short, and not the last.

    `behind`: records of the log that history has not read yet: what only they tell is not in it.
    """

    data: list[RunSummary]
    cursor: str
    behind: int


class EventSummary(Struct, frozen=True, omit_defaults=True):
    """One line of a list of events. `data` is there if it is short; `bytes` is the size of the whole event."""

    id: str
    name: str
    received_at: int
    bytes: int
    data: Raw | UnsetType = UNSET


class EventList(Struct, frozen=True):
    """Events, newest first; `cursor` and `behind` as for runs."""

    data: list[EventSummary]
    cursor: str
    behind: int


class EventUse(Struct, frozen=True, omit_defaults=True):
    """What an event did to a run that it did not start: `matched` its wait, or `cancelled` it."""

    run: str
    function: str
    what: str
    at: int
    op: str = ""


class Decision(Struct, frozen=True, omit_defaults=True):
    """What came of an event for one function, with the reason in words.

    `started` (`run`) · `where_false`: the trigger's condition does not hold · `added_later`: the trigger was not there
    yet · `not_read_yet`: history is behind · `not_awaited`: its runs wait for such events, and none took this one
    """

    function: str
    decision: str
    why: str
    run: str = ""


class EventDetail(Struct, frozen=True, omit_defaults=True):
    """An event: what it started, what else it did, and why it did nothing. `behind` as for lists."""

    event: Raw
    received_at: int
    runs: tuple[RunSummary, ...] = ()
    uses: tuple[EventUse, ...] = ()
    decisions: tuple[Decision, ...] = ()
    nothing: str = ""
    """Why it did nothing at all; empty if it did something."""
    behind: int = 0


class Bucket(Struct, frozen=True):
    """Runs of a function that were requested, and that ended, within `bucket_ms` from `at` on."""

    at: int
    started: int
    finished: int
    failed: int


class FunctionNumbers(Struct, frozen=True, omit_defaults=True):
    """How a function did. `finished` in any way; lengths are from the start to the end, a fifth too long at most."""

    function: str
    started: int = 0
    finished: int = 0
    completed: int = 0
    failed: int = 0
    success_rate: float | None = None
    """Of those that completed or failed."""
    p50_ms: int | None = None
    p95_ms: int | None = None
    buckets: tuple[Bucket, ...] = ()
    """Those in which there was something, by time."""


class Failing(Struct, frozen=True, omit_defaults=True):
    """A function that failed most, and how it did last."""

    function: str
    failed: int
    run: str = ""
    at: int | None = None
    error: ErrorInfo | None = None


class QueueLength(Struct, frozen=True):
    """Steps in a worker pool's queue: nobody has them yet, members have them, they failed and are tried again later."""

    queue: str
    waiting: int
    taken: int
    resting: int


class Waits(Struct, frozen=True):
    """Runs and steps that cannot go on yet. Of each kind 10,000 are counted at most.

    `paused`: each function that is → runs that wait until it is resumed; `delayed`: runs whose start is due later;
    `held`: runs that wait for code that this process lacks.
    """

    paused: dict[str, int]
    delayed: int
    held: int
    queues: list[QueueLength]


class Overview(Struct, frozen=True):
    """How an app does. `live`: runs by status, counted up to 100,000.

    `lag`: by partition, records that are not folded yet: by the engine, or in a gateway by history.
    """

    since: int
    until: int
    bucket_ms: int
    functions: list[FunctionNumbers]
    failing: list[Failing]
    live: dict[str, int]
    waits: Waits
    lag: dict[str, int]
    behind: int


class RunFilter(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which runs: all that is given must hold. Times are of the request, in ms; `until` is not included.

    `where`: a condition over `event`, the run's trigger. All but the first three are asked of history.
    """

    function: str = ""
    status: str = ""
    event_id: str = ""
    since: int | None = None
    until: int | None = None
    metadata: dict[str, str] = {}
    where: str = ""

    @property
    def needs_history(self) -> bool:
        """The state of an engine cannot be asked for this."""
        return self.since is not None or self.until is not None or bool(self.metadata or self.where)


Action = Literal["cancel", "rerun", "backfill"]


class Job(Struct, frozen=True, omit_defaults=True):
    """Many runs cancelled, run again, or started by past events. `done` of `count` were asked for, `failed` in vain.

    `counted`: nothing was made, it was only asked how many runs that would be.
    """

    id: str
    action: Action
    state: Literal["counted", "running", "finished"]
    count: int
    made_at: int = 0
    done: int = 0
    failed: int = 0
    reason: str = ""
    error: str = ""
    """Why the first was in vain."""
    function: str = ""
    """Of a backfill: the function that gets the events."""
    rate: float = 0
    """So many a second at most; 0: as fast as they are taken."""


class Attempt(Struct, frozen=True, omit_defaults=True):
    """One recorded attempt of a step."""

    number: int
    at: int
    took_us: int = 0
    error: ErrorInfo | None = None
    retry_in_ms: int | None = None


class Moment(Struct, frozen=True, omit_defaults=True):
    """Something that happened to an op, or to a run, between its beginning and its end; only history has them.

    `failed` (attempt, took_us, error, due) · `retried` · `crashed` (its process died) · `claimed` (member) ·
    `released`, `died`, `queued` (a member is looked for again) · of a run `errored` (attempt, error, due), `retried`,
    `parked`, `unparked`
    """

    at: int
    kind: str
    detail: Raw | UnsetType = UNSET


class Waiting(Struct, frozen=True, omit_defaults=True):
    """Why a run does not go on now, in words; `op`: by which of its ops, `until`: how long at most."""

    why: str
    op: str = ""
    until: int | None = None


class OpDetail(Struct, frozen=True, omit_defaults=True):
    """One op of a run as the journal has it, in log order of its first record."""

    op: str
    name: str
    type: str
    """`step`, `sleep`, `wait`, `call`, `enqueue`, `send`, `watch`, `cancel` or `rerun`."""
    status: str
    """`open`, `completed`, `failed` or `closed`."""
    opened_at: int = 0
    ended_at: int | None = None
    attempts: tuple[Attempt, ...] = ()
    input: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None
    about: str = ""
    """What it waits for, in words: an event and key, a due time, another run."""
    queue: str = ""
    """Of a step for a worker pool; `dispatches`: how often it was put there; `member`: who had it last."""
    dispatches: int = 0
    member: str = ""
    due: int | None = None
    """Of a sleep or a wait, its end; of a step, its next attempt."""
    run: str = ""
    """That it called, started, watches, cancels or ran again."""
    running: bool = False
    """Its body runs at this moment, in this process."""
    moments: tuple[Moment, ...] = ()


class RunDetail(Struct, frozen=True, omit_defaults=True):
    """`runs show`: the run with its trigger, result and ops; where history is kept, with its relations too."""

    run: RunSummary
    event: Raw | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None
    ops: tuple[OpDetail, ...] = ()
    progress: dict[str, str | int | float | bool | None] = {}
    parked: str = ""
    """Why it is parked, with the recorded and the requested op side by side."""
    trimmed: bool = False
    """Some of its records are older than the log's retention: `ops` has what is left of them."""
    moments: tuple[Moment, ...] = ()
    """The run's own."""
    children: tuple[RunSummary, ...] = ()
    reruns: tuple[RunSummary, ...] = ()
    waiting: tuple[Waiting, ...] = ()


class LinePage(Struct, frozen=True):
    """What a run logged, oldest first. `cursor` is where to go on; `end`: there is nothing more yet."""

    data: list[RunLogged]
    cursor: str
    end: bool


class FunctionView(Struct, frozen=True, omit_defaults=True):
    """One line of `functions`; all numbers are of what this process has.

    `held`: runs that have work and wait for newer code, or for a payload out of reach; of a function that is missing
    here, all that have not ended.
    """

    id: str
    kind: str
    triggers: tuple[str, ...] = ()
    cron: str = ""
    next_fire: int | None = None
    cancel_on: tuple[str, ...] = ()
    retries: int = 4
    running: int = 0
    held: int = 0
    paused_since: int | None = None
    waiting: int = 0
    """Runs that would have started, were it not paused; they are among the running ones."""


class Work(Struct, frozen=True):
    """What this process has in hand, and has done since it began. Lengths go by their number of bits: below 2ⁿ µs."""

    runs_in_memory: int = 0
    """Runs whose code is loaded here; `runs_idle` of them wait for the log alone, and may leave."""
    runs_idle: int = 0
    steps_running: int = 0
    """Bodies that run here, for runs and for queues."""
    steps_failed: int = 0
    retries: int = 0
    steps_took: Mapping[int, int] = {}
    """Of those that completed; and their sum in microseconds."""
    steps_took_sum: int = 0
    loop_delay: Mapping[int, int] = {}
    """How much later than planned a timer of the event loop ran, four times a second."""
    loop_delay_sum: int = 0
    runs_ended: Mapping[str, int] = {}
    """Status → how many; the engine's own are left out."""
    runs_took: Mapping[int, int] = {}
    """From start to end."""
    runs_took_sum: int = 0
    runs_waited: Mapping[int, int] = {}
    """From request to start, of those that have ended."""
    runs_waited_sum: int = 0


class Counts(Struct, frozen=True):
    """What a scraper counts, by partition, of those at hand. `events_gone` goes by those of the topic of events."""

    halted: Mapping[str, int] = {}
    """1 for a partition that halted, else 0."""
    held: Mapping[str, int] = {}
    """Runs that have work and wait: for a function or code that this process lacks, or a payload out of reach."""
    parked: Mapping[str, int] = {}
    work: Mapping[str, Work] = {}
    """By app."""
    events_gone: Mapping[str, int] = {}
    """Records that were never taken in and are gone: nothing after them is, until somebody says that it is known."""


class Port(Protocol):
    """Each method raises `LogFull` while writes are refused, `LogError` when the log is broken.

    What was acknowledged is seen by what is asked afterwards: a run just enqueued has a status, can be cancelled and
    awaited; an event just sent is known, with the runs that it started.
    """

    async def send(self, events: Sequence[EventBody]) -> list[str]:
        """Ids in order, once all are durable."""
        ...

    async def enqueue(self, request: Enqueue) -> str:
        """Run id, once durable. Raises `UnknownFunction`, `PayloadError` (arguments do not fit), `UnknownRun`."""
        ...

    async def result(self, run_id: str, timeout_ms: int | None = None) -> RunOutcome:
        """Waits for the end. Raises `TimeoutError`, `UnknownRun`, and `EngineClosed` if the engine closes meanwhile."""
        ...

    async def status(self, run_id: str) -> RunStatus: ...

    async def cancel(self, run_id: str, reason: str = "") -> None:
        """Accepted once durable; cancelling a run that has ended changes nothing."""
        ...

    async def rerun(self, run_id: str) -> str:
        """Id of a new run with the same trigger or arguments. Raises `UnknownRun`."""
        ...

    async def fork(self, ask: ForkAsk) -> str:
        """Id of the new run, once the part is durable; it starts with the last one. Raises `UnknownFunction`,
        `PayloadError`."""
        ...

    async def unpark(self, run_id: str) -> None:
        """A parked run tries to go on, under the code that is there now; durable. Raises `UnknownRun`, `NotParked`."""
        ...

    async def pause(self, function: str) -> None:
        """Its runs are requested as ever and wait, until `resume`; those that have started go on. Durable.

        Raises `UnknownFunction`.
        """
        ...

    async def resume(self, function: str) -> None:
        """All that wait start, in the order in which they came. A function that is not paused is left as it is."""
        ...

    async def runs(
        self, *, function: str = "", status: str = "", event_id: str = "", limit: int = 50, cursor: str = ""
    ) -> tuple[list[RunSummary], str]:
        """Newest first, and the cursor of the next page (empty at the end)."""
        ...

    async def run(self, run_id: str) -> RunDetail: ...

    async def lines(self, run_id: str, *, level: LogLevel = "debug", limit: int = 200, cursor: str = "") -> LinePage:
        """What the run logged, at `level` or above, as the log still has it. Raises `UnknownRun`, `PayloadError`.

        At most `limit` lines; fewer, even none, are not the last unless the page says so.
        """
        ...

    async def tape(self, run_id: str) -> bytes:
        """The run's records as the log has them, with what decided about it (`perdure.past.file`). `UnknownRun`."""
        ...

    async def knows_event(self, event_id: str) -> bool:
        """Whether an event of this id has come within the window, also one that triggered nothing."""
        ...

    async def functions(self) -> list[FunctionView]: ...

    async def lag(self) -> Mapping[str, int]:
        """Partition → records that its log has and that were not folded yet, of those at hand."""
        ...

    def counts(self) -> Counts: ...

    def ready(self) -> Mapping[str, str]:
        """What is not ready yet or halted, by name (`partition 2` → reason); empty when all is well."""
        ...
