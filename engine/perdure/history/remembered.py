"""What history's own folds keep of the engine's state, for who has no engine at hand. Pure, but for asking the store.

It is as far as history has read; limits bound what a question costs where very much waits.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from perdure.flow.states import CronState, Meta, PausedRun
from perdure.history.store import History
from perdure_schemas.definition import Definition

T = TypeVar("T")
MOST_ROWS = 10_000


class _Opening(Struct):
    queue: str


class _Queued(Struct):
    """Of a `QueuedState`, what is counted."""

    opening: _Opening
    claim: str = ""
    resting: bool = False


class InQueue(NamedTuple):
    """Steps in a queue: nobody has them, a member has them, they failed and wait for their next attempt."""

    waiting: int = 0
    taken: int = 0
    resting: int = 0


def queues(history: History) -> dict[str, InQueue]:
    """By queue; counted up to `MOST_ROWS` steps in all."""
    counts: Counter[tuple[str, str]] = Counter()
    for _, one in _rows(history, b"q/", _Queued):
        counts[one.opening.queue, "resting" if one.resting else "taken" if one.claim else "waiting"] += 1
    names = {queue for queue, _ in counts}
    return {name: InQueue(*(counts[name, field] for field in InQueue._fields)) for name in names}


def waiting_to_start(history: History) -> Counter[str]:
    """Function that is paused → runs that would have started; counted up to `MOST_ROWS`."""
    return Counter(one.function for _, one in _rows(history, b"h/", PausedRun))


def paused(history: History) -> dict[str, int]:
    """Function → since when, in log time."""
    found: dict[str, int] = {}
    for _, meta in _rows(history, b"#", Meta):
        for function, since in meta.paused.items():
            found[function] = min(since, found.get(function, since))
    return found


def next_fires(history: History) -> dict[str, int]:
    """Function with a schedule → when it is due next."""
    return {function: one.due for function, one in _rows(history, b"c/", CronState)}


def active_code(history: History) -> Definition | None:
    """The newest that is active in a partition; None before the first."""
    current = max((meta.current for _, meta in _rows(history, b"#", Meta)), default=0)
    return next((one for number, one in _rows(history, b"d/", Definition) if number == str(current)), None)


def _rows(history: History, prefix: bytes, kind: type[T]) -> Iterator[tuple[str, T]]:
    decode = msgspec.json.Decoder(kind).decode
    for key, value in history.remembered(prefix, MOST_ROWS):
        yield key.removeprefix(prefix).decode(), decode(value)
