"""What history keeps, a struct a row. Times are log time in ms; payloads are JSON of `Payload`, errors of `ErrorInfo`.

A run's page is drawn from its run, data, ops and marks: an op lasts from `opened_at` to `ended_at`, its marks say when
attempts failed, when the next one was due and began, and who had it. What a call started is the run with that `parent`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct, field

OWN = ""
"""The op of a mark that is the run's own."""


class RunRow(Struct, gc=False):
    """What lists show. `due`: when it starts, or is tried again as a whole."""

    id: str
    partition: int
    function: str
    status: str
    cause: str
    requested_at: int
    started_at: int | None
    ended_at: int | None
    due: int | None
    attempt: int
    event_id: str
    parent: str
    parent_op: str
    rerun_of: str
    scheduled: int | None
    metadata: dict[str, str]


class RunNews(NamedTuple):
    """That a run has changed, and what it is now."""

    id: str
    function: str
    status: str


def news_of(changed: Mapping[str, RunRow]) -> list[RunNews]:
    """For who watches."""
    return [RunNews(row.id, row.function, row.status) for row in changed.values()]


class RunData(Struct, gc=False):
    """What only the run's own page shows. None: nothing new is known."""

    event: bytes | None = None
    arguments: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    parked: bytes | None = None
    """Why it cannot go on, by the code that said so last: the record, without its owner."""


class OpRow(Struct, gc=False):
    """One op. `about` is the record's opening, `position` its place among the run's ops."""

    run: str
    op: str
    position: int
    type: str
    opened_at: int
    status: str = "open"
    ended_at: int | None = None
    due: int | None = None
    """Of a sleep or a wait, its end; of a step, its next attempt."""
    attempt: int | None = None
    took_us: int | None = None
    about: bytes | None = None
    input: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None


class OpPatch(Struct, gc=False):
    """What became of an op whose row may be stored already. None in all but the times: as it was."""

    status: str
    ended_at: int | None = None
    due: int | None = None
    attempt: int | None = None
    took_us: int | None = None
    input: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None


class Mark(Struct, gc=False):
    """A moment of an op between its opening and its outcome, or of a run.

    `failed` (attempt, took_us, error, due) · `retried` (attempt) · `crashed` (its process died) · `claimed` (member) ·
    `released`, `died`, `queued` (a member is looked for again) · `errored`, `parked`, `unparked` (of a run)
    """

    run: str
    op: str
    offset: int
    at: int
    kind: str
    detail: bytes = b"{}"


class EventRow(Struct, gc=False):
    """An event that was received, the first time. `body` is JSON of `EventBody`."""

    id: str
    partition: int
    name: str
    received_at: int
    body: bytes


class Use(Struct, gc=False):
    """What an event did beside starting runs: `matched` a wait of a run, or `cancelled` the run."""

    event_id: str
    run: str
    op: str
    what: str
    at: int


class Tally(NamedTuple):
    """What is counted together: see `tallies.py`."""

    size: int
    at: int
    function: str
    what: str


class Standing(Struct, gc=False):
    """How far a partition has been read: all below `offset`."""

    offset: int = 0
    at: int = 0
    stamp: int = 0
    gap: bool = False
    """Records were trimmed before they were read: see `after_gap.py`."""


class Changes(Struct, gc=False):
    """What some consecutive records of one partition change, each row at most once. To be written in this order."""

    new: dict[str, None] = field(default_factory=dict[str, None])
    """Runs that were requested: rows under their ids are of runs that the folds have forgotten, and go."""
    runs: dict[str, RunRow] = field(default_factory=dict[str, RunRow])
    data: dict[str, RunData] = field(default_factory=dict[str, RunData])
    ops: dict[tuple[str, str], OpRow] = field(default_factory=dict[tuple[str, str], OpRow])
    """By run and op. Where there is a row, only what an `OpPatch` has changes, and `about`."""
    patches: dict[tuple[str, str], OpPatch] = field(default_factory=dict[tuple[str, str], OpPatch])
    """Of ops that are not in `ops`."""
    ended: dict[str, int] = field(default_factory=dict[str, int])
    """Runs that ended, and when: their open ops are closed."""
    marks: list[Mark] = field(default_factory=list[Mark])
    events: list[EventRow] = field(default_factory=list[EventRow])
    given_back: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """Ops, by run and op: if a wait among them has used an event, it is closed now, and the event not used."""
    uses: list[Use] = field(default_factory=list[Use])
    tallies: Counter[Tally] = field(default_factory=Counter[Tally])
    """What is to be added to each."""

    def named(self) -> set[str]:
        """Runs that anything is said of."""
        named = {*self.runs, *self.data, *self.ended, *(run for run, _ in self.ops)}
        named |= {run for run, _ in self.patches} | {run for run, _ in self.given_back}
        return named | {one.run for one in self.marks} | {one.run for one in self.uses}
