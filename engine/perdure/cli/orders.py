"""What `dev`'s supervisor and its engine process tell each other, and what both print. Imports no engine."""

from msgspec import Struct

from perdure.sdk.port import FunctionView


class Served(Struct):
    """What to run."""

    app: str
    log: str
    partitions: int
    history: str | None = ""
    """Where it is kept up beside the engine: a URL, or else in the data directory. None: nowhere."""
    history_retention: str | None = None


class Ready(Struct):
    """What runs now."""

    app: str
    url: str
    log: str
    functions: list[FunctionView]


class Orders(Struct):
    """What the supervisor hands over: what to run, and two inherited file descriptors."""

    served: Served
    listener: int
    link: int
    first: bool
    asked_at: float
    """Wall time at which this engine was asked for: it was awaited since then."""
    reload: bool
    as_json: bool


class Started(Struct):
    """What the engine process answers once it is ready: folders whose changes count, beside the current one."""

    watch: list[str]


class PodReady(Struct, omit_defaults=True):
    """One of many processes, and what it does now."""

    app: str
    role: str
    """`worker`, `pool` or `gateway`."""
    log: str
    url: str = ""
    """Where it answers, if it does."""
    queues: dict[str, int] = {}
    functions: list[FunctionView] = []
