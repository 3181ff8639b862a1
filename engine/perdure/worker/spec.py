"""What the worker knows of user code. The sdk fills these in; the worker never imports the sdk."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from perdure.worker.payloads import Decode
from perdure_schemas.definition import FunctionDefined


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`limit` further attempts after the first; exponential backoff between them."""

    limit: int = 4
    first_ms: int = 1_000
    factor: float = 2.0
    longest_ms: int = 3_600_000
    never_on: tuple[type[Exception], ...] = ()

    def delay_ms(self, failures: int) -> int:
        """Backoff before attempt `failures` + 1, with ±10% jitter so that a crowd does not come back at once."""
        base = min(self.first_ms * self.factor ** max(failures - 1, 0), self.longest_ms)
        return max(1, int(base * random.uniform(0.9, 1.1)))


class Callee(Protocol):
    """What arguments are checked against and typed by, of functions and of steps."""

    @property
    def id(self) -> str: ...
    @property
    def fn(self) -> Callable[..., Any]: ...
    @property
    def takes_context(self) -> bool: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    def __hash__(self) -> int: ...


@dataclass(slots=True, eq=False)
class StepSpec:
    """A piece of work. `returns` is the annotation that results are decoded into; `Any` if there is none."""

    name: str
    fn: Callable[..., Any]
    is_async: bool
    returns: Any = Any
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_ms: int | None = None
    record_input: bool = True
    queue: str = ""
    """The worker pool that runs it; empty where the run is."""
    step: str = ""
    """The name it was defined under, by which a pool finds it; `name` may be another by `options`."""
    origin: object = None
    """The function as it was decorated: it tells steps of one name apart, whatever runs in its place."""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    decode: Decode | None = None
    """Reads `returns`, where the spec is kept and so need not look for it each time."""

    @property
    def id(self) -> str:
        return self.name

    @property
    def takes_context(self) -> bool:
        return False


@dataclass(slots=True, eq=False)
class FunctionSpec:
    """A function with all that running it needs."""

    id: str
    kind: str
    """`event`, `background`, `cron` or `handler`."""
    fn: Callable[..., Any]
    is_async: bool
    takes_context: bool
    defined: FunctionDefined
    data_types: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Event name → type of `event.data`; names that are missing keep plain dicts."""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Background functions: parameter name → annotation, without the context."""
    returns: Any = Any
    retries: RetryPolicy = field(default_factory=RetryPolicy)
