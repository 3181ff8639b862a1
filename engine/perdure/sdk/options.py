"""Options of functions and steps: as users write them, checked once, where they are written."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict, cast

from msgspec import Struct

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, Duration
from perdure.sdk.events import CancelOn, EventType
from perdure.worker.spec import RetryPolicy

if TYPE_CHECKING:
    from perdure.sdk.context import Context
    from perdure.sdk.ended import Ended

DAY_MS = 86_400_000


class Retry(Struct, frozen=True):
    """How a failed step is tried again: `limit` more attempts, `first` after the first failure, then `factor` times
    as long each time up to `longest`. Exceptions of `never_on` are not tried again.
    """

    limit: int = 4
    first: Duration = "1s"
    factor: float = 2
    longest: Duration = "1h"
    never_on: tuple[type[Exception], ...] = ()


class Options(TypedDict, total=False):
    """Options of `@app.function`, `@app.background` and `@app.cron`."""

    id: str
    """What the log calls the function; its name, if not given. A renamed function keeps its runs by keeping its id."""
    retries: int | Retry
    """For the function itself, when it raises outside its steps."""
    timeout: Duration
    """How long a run may last in all, waiting included. Then it fails."""
    discard_after: Duration
    """A run that could not start within this is discarded."""
    cancel_on: CancelOn | Sequence[CancelOn]
    waits: Sequence[EventType[Any] | str]
    """Events that the function waits for where its source does not show it: an `EventType` or a name for waits without
    `match`, `"cart/purchased data.cart_id"` for those with.
    """
    lookback: Duration
    """A wait also matches events this much older than itself, if they came after the run's trigger."""
    on_failure: "Callable[[Context, Ended], Awaitable[object]]"
    on_cancel: "Callable[[Context, Ended], Awaitable[object]]"


class StepOptions(TypedDict, total=False):
    """Options of `@app.step` and `Step.options`."""

    name: str
    retries: int | Retry
    timeout: Duration
    """For one attempt."""
    queue: str
    """The worker pool that runs it, in this process or in others; without one it runs where the run is."""
    record_input: bool
    """False keeps the arguments out of the log: their digest stands there alone."""


class FunctionOptions(Struct, frozen=True):
    """`Options`, checked and in the units of the engine."""

    id: str
    retries: RetryPolicy
    timeout_ms: int | None
    discard_after_ms: int | None
    lookback_ms: int
    cancel_on: tuple[CancelOn, ...]
    waits: tuple[EventType[Any] | str, ...]
    on_failure: Callable[..., Any] | None
    on_cancel: Callable[..., Any] | None


def function_options(given: Mapping[str, Any], default_id: str, where: str) -> FunctionOptions:
    """Checked options of a function. `where` is the decorator's name, for messages."""
    check_names(given, Options.__annotations__, where)
    return FunctionOptions(
        id=check_id(given.get("id", default_id), "id"),
        retries=retry_policy(given.get("retries", Retry())),
        timeout_ms=_optional_ms(given, "timeout"),
        discard_after_ms=_optional_ms(given, "discard_after"),
        lookback_ms=parse_ms(given["lookback"], what="lookback") if "lookback" in given else DAY_MS,
        cancel_on=_several(given.get("cancel_on", ()), CancelOn, "cancel_on", 'CancelOn("cart/removed", match="…")'),
        waits=_waits(given.get("waits", ())),
        on_failure=given.get("on_failure"),
        on_cancel=given.get("on_cancel"),
    )


def retry_policy(value: object, what: str = "retries") -> RetryPolicy:
    """A number of retries, or a `Retry`. Raises `DefinitionError`."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = Retry(limit=value)
    if not isinstance(value, Retry):
        raise DefinitionError(f"{what}={value!r}: a number of further attempts, or Retry(limit=…, first=…)")
    if isinstance(cast("object", value.limit), bool) or not isinstance(cast("object", value.limit), int):
        raise DefinitionError(f"{what}: limit={value.limit!r}: a whole number of further attempts")
    if value.limit < 0:
        raise DefinitionError(f"{what}: limit={value.limit}: 0 means a single attempt, less is impossible")
    if not value.factor >= 1:
        raise DefinitionError(f"{what}: factor={value.factor}: at least 1, or delays would shrink")
    return RetryPolicy(
        limit=value.limit,
        first_ms=parse_ms(value.first, what=f"{what}: first"),
        factor=float(value.factor),
        longest_ms=parse_ms(value.longest, what=f"{what}: longest"),
        never_on=_exceptions(value.never_on, what),
    )


def _exceptions(value: object, what: str) -> tuple[type[Exception], ...]:
    kinds = cast("tuple[object, ...]", value if isinstance(value, tuple | list) else (value,))
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise DefinitionError(f"{what}: never_on={value!r}: exception classes, such as (ValueError,)")
    return cast("tuple[type[Exception], ...]", tuple(kinds))


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses an option that is none, with the one that was probably meant."""
    names = list(known)
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise DefinitionError(f"{where}: no option {name!r}; {hint}")


def check_id(value: object, what: str) -> str:
    """An id of a function or a name of an app or step, as the log, topics and addresses can have it."""
    if not isinstance(value, str):
        raise DefinitionError(f"{what}={value!r}: a text is needed, not {type(value).__name__}")
    if not value or value != value.strip() or not value.isprintable():
        raise DefinitionError(f"{what}={value!r}: at least one character, no blanks at its ends, no control characters")
    if ":" in value or "/" in value:
        raise DefinitionError(f"{what}={value!r}: ':' and '/' are not allowed; use '-', '_' or '.'")
    if len(value) > 200:
        raise DefinitionError(f"{what}={value[:40]!r}…: {len(value)} characters long; at most 200")
    return value


def check_queue(value: object) -> str:
    """A name of a queue; topics are named after it."""
    text = check_id(value, "queue")
    if not all(char.isascii() and (char.isalnum() or char in "._-") for char in text):
        raise DefinitionError(f"queue={text!r}: letters, digits, '.', '_' and '-' only: topics are named after it")
    return text


def check_flag(given: Mapping[str, Any], name: str, default: bool) -> bool:
    """An option that is True or False: `record_input="no"` would count as True otherwise."""
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise DefinitionError(f"{name}={value!r}: say True or False")
    return value


def _optional_ms(given: Mapping[str, Any], name: str) -> int | None:
    return parse_ms(given[name], what=name, positive=True) if given.get(name) is not None else None


def _several(value: object, kind: type[Any] | tuple[type[Any], ...], what: str, example: str) -> tuple[Any, ...]:
    items = cast(
        "tuple[object, ...]", tuple(cast("list[object]", value)) if isinstance(value, tuple | list) else (value,)
    )
    for item in items:
        if not isinstance(item, kind):
            raise DefinitionError(f"{what}={item!r}: say for example {what}={example}")
    return items


def _waits(value: object) -> tuple[EventType[Any] | str, ...]:
    if isinstance(value, str | EventType):
        raise DefinitionError(f"waits={value!r}: a list is needed, such as waits=[{value!r}]")
    return _several(value, (EventType, str), "waits", '["cart/purchased data.cart_id"]')


timeout_ms = _optional_ms
