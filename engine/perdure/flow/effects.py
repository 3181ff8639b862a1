"""What a fold asks for. Appends are performed whenever a record is folded; the rest only by a living owner."""

from msgspec import Struct

from perdure_schemas.records import (
    MatchOffered,
    OpClosed,
    OpOpened,
    RunAnswered,
    StepCompleted,
    StepFailed,
    TimerFired,
)

Outcome = StepCompleted | StepFailed | OpOpened | RunAnswered | MatchOffered | TimerFired
"""The records that can be the outcome of an op; an OpOpened is one for enqueue, send, cancel and rerun."""
Line = Outcome | OpOpened | OpClosed
"""What is kept of a run for its replay."""


class Start(Struct, frozen=True, tag=True, gc=False):
    """Run this run's user code from its beginning, on what the log holds."""

    run: str


class Deliver(Struct, frozen=True, tag=True, gc=False):
    """An op has its outcome. `at` is its log time, `offset` its place, `raw` the record as it stands in the log."""

    run: str
    op: str
    outcome: Outcome
    at: int
    offset: int
    raw: bytes = b""


class Opened(Struct, frozen=True, tag=True, gc=False):
    """An op is open in the log, as its first op.opened has it: who asks for something else there goes another way."""

    run: str
    op: str
    digest: str


class Closed(Struct, frozen=True, tag=True, gc=False):
    """User code gave the op up. `taken`: it had its outcome, an event that is given back."""

    run: str
    op: str
    taken: bool


class Faltered(Struct, frozen=True, tag=True, gc=False):
    """An attempt failed and another one follows, by a timer: there is nothing to do, for who tells of attempts."""

    run: str
    failure: StepFailed
    at: int


class Recalled(Struct, frozen=True, tag=True, gc=False):
    """A line of a fork's history, as it was at log time `at`. There is nothing to do: the fork has not begun."""

    run: str
    op: str
    line: Line
    at: int


class Retry(Struct, frozen=True, tag=True, gc=False):
    """The backoff is over: run the step's attempt `attempt`."""

    run: str
    op: str
    attempt: int


class Attempted(Struct, frozen=True, tag=True, gc=False):
    """The attempt announced at recovery is in the log: the step may run."""

    run: str
    op: str


class Answer(Struct, frozen=True, tag=True, gc=False):
    """Tell a pool member what became of its claim. It asks again if it hears nothing."""

    run: str
    op: str
    claim: str
    granted: bool
    why: str
    deaths: int = 0
    alone: int = 0


class Ended(Struct, frozen=True, tag=True, gc=False):
    """A run came to its end (`status`), whoever decided it."""

    run: str
    status: str


class Parked(Struct, frozen=True, tag=True, gc=False):
    run: str


class Schedule(Struct, frozen=True, tag=True, gc=False):
    """A cron function needs its next fire computed and appended."""

    function: str


class Refused(Struct, frozen=True, tag=True, gc=False):
    """A fire came before its due time by the log's clock: it is to be appended again later."""

    entity: str
    timer: str
    setter: int


class Activated(Struct, frozen=True, tag=True, gc=False):
    number: int


class OwnerKnown(Struct, frozen=True, tag=True, gc=False):
    """An owner.started was read: `ours` is for the processor to judge by number and token."""

    number: int
    token: str


Duty = Schedule | OwnerKnown | Activated | Answer | Parked | Attempted
"""What the processor itself has to see to, also where it concerns the worker too."""
Act = Start | Deliver | Opened | Closed | Faltered | Recalled | Retry | Ended | Refused | Duty


class Effects:
    """Effects of a batch, in order: `sends` are (partition, encoded record), `acts` for the owner.

    `commands`: steps (run, op) that wait in a queue, each time a command is to be put for them. As they are appends,
    they are kept when a tail is folded, and put again; who claims a step by a needless one is refused.
    `duties`: whether the processor itself has to see to one of the acts.
    `fired`: fires that were folded, whether they acted or not: their owner may append them again.
    """

    __slots__ = ("acts", "commands", "duties", "fired", "sends")

    def __init__(self) -> None:
        self.sends: list[tuple[int, bytes]] = []
        self.acts: list[Act] = []
        self.commands: list[tuple[str, str]] = []
        self.duties = False
        self.fired: list[tuple[str, str, int]] = []

    def oblige(self, duty: Duty) -> None:
        self.acts.append(duty)
        self.duties = True
