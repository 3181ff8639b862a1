"""What answers look like, where the engine has no type for it."""

from typing import Any

from msgspec import Struct

from perdure.past.records import RecordTold
from perdure.sdk.port import FunctionView


class Index(Struct):
    """What this is, and where to go on."""

    app: str
    routes: list[str]


class Live(Struct):
    """Whether the loop turns."""

    live: bool


class Ready(Struct):
    """What is not ready, by name, with the reason."""

    ready: bool
    waiting: dict[str, str]


class Taken(Struct):
    """Ids of events, in order, once all are durable."""

    ids: list[str]
    status: int


class Refusal(Struct, frozen=True):
    """Why the item at `index` of the list was not taken."""

    index: int
    error: str


class PartlyTaken(Struct):
    """Ids of those that were taken, and why others were not."""

    ids: list[str]
    status: int
    error: str
    errors: list[Refusal]


class Functions(Struct):
    """All functions of the app."""

    data: list[FunctionView]
    cursor: str


class Records(Struct):
    """All records of a run."""

    data: list[RecordTold]
    cursor: str


class Pausing(Struct):
    """Whether the function is to be paused from now on."""

    function: str
    paused: bool


class RunId(Struct):
    """The run that it is about."""

    run_id: str


class Count(Struct):
    """How many."""

    count: int


class Event(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An event, as it is sent."""

    name: str
    data: dict[str, Any] | None = None
    id: str | None = None
    user: dict[str, Any] | None = None
    ts: int | None = None
    v: str | None = None
    traceparent: Any = None
    """Never a reason to refuse it."""
