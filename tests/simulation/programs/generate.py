"""Programs by chance."""

import random
from collections.abc import Callable

from tests.simulation.programs.syntax import (
    Asked,
    By,
    Catch,
    Chance,
    Child,
    Gather,
    Group,
    Guard,
    InTurn,
    Map,
    Patched,
    Program,
    Queue,
    Race,
    Raise,
    Send,
    Seq,
    Sleep,
    Step,
    Timeout,
    Wait,
)

KEYS = 3
USERS = 2
SPANS_MS = (1, 500, 60_000, 3_600_000)
_BY: tuple[By, ...] = ("k", "k", "k", "u", "")
_ASKED: tuple[Asked, ...] = ("call", "call", "call", "enqueue", "enqueue", "cancel", "result", "rerun", "status")
Make = Callable[[random.Random, int], Program]


def random_program(rng: random.Random, size: int, *, patched: bool = False) -> Program:
    """A program of about `size` leaves. `patched`: it may ask for a change that newer code has."""
    if size <= 1:
        return _leaf(rng)
    draw = rng.random()
    if draw < 0.18:
        return _child(rng, size)
    if patched and draw < 0.24:
        return Patched(random_program(rng, size // 2, patched=True), random_program(rng, size // 2))
    return rng.choice(_BRANCHES)(rng, size)


def _leaf(rng: random.Random) -> Program:
    return rng.choice(_LEAVES)(rng)


def _step(rng: random.Random) -> Step:
    return Step(
        value=rng.randrange(100),
        fails=rng.choice((0, 0, 0, 0, 0, 1, 2, 9)),
        how=rng.choice(("again", "again", "later", "final")),
        form=rng.choice(("async", "async", "async", "inline", "thread")),
        took_ms=rng.choice((0, 0, 0, 1, 30, 2_000)),
        size=rng.choice((0, 0, 0, 0, 0, 4_000, 5_000, 20_000)),
    )


def _sleep(rng: random.Random) -> Sleep:
    return Sleep(rng.choice(SPANS_MS), moment=rng.random() < 0.2)


def _wait(rng: random.Random) -> Wait:
    by: By = rng.choice(_BY)
    own = rng.random() < 0.3
    return Wait(
        name="begin" if own and rng.random() < 0.3 else "go",
        by=by,
        value=None if own or not by else rng.randrange(KEYS if by == "k" else USERS),
        above=rng.choice((None, None, 2)),
        ms=rng.choice((*SPANS_MS, None)),
    )


def _send(rng: random.Random) -> Send:
    name = "go" if rng.random() < 0.9 else "stop"
    return Send(name, rng.randrange(KEYS), rng.randrange(USERS), rng.randrange(5))


def _raise(rng: random.Random) -> Raise:
    return Raise(final=rng.random() < 0.5)


_LEAVES: tuple[Callable[[random.Random], Program], ...] = (
    *(_step, _step, _step, _step, _step, _step, _sleep, _sleep, _sleep),
    *(_wait, _wait, _wait, _wait, _send, _send, _send, lambda rng: Chance(), _raise),
)


def _several(rng: random.Random, size: int, least: int = 2, most: int = 4) -> tuple[Program, ...]:
    count = rng.randint(least, most)
    return tuple(random_program(rng, max(1, size // count)) for _ in range(count))


def _half(rng: random.Random, size: int) -> Program:
    return random_program(rng, max(1, size // 2))


def _child(rng: random.Random, size: int) -> Program:
    how: Asked = rng.choice(_ASKED)
    return Child(random_program(rng, size - 1), how, rng.choice((0, 0, 0, 1, 60_000)))


_BRANCHES: tuple[Make, ...] = (
    *(lambda rng, size: Seq(_several(rng, size)),) * 3,
    *(lambda rng, size: Gather(_several(rng, size), strict=rng.random() < 0.3),) * 2,
    lambda rng, size: Group(_several(rng, size)),
    lambda rng, size: InTurn(_several(rng, size)),
    lambda rng, size: Queue(_several(rng, size), rng.randint(1, 3)),
    *(lambda rng, size: Race(_several(rng, size, 2, 3)),) * 2,
    lambda rng, size: Map(tuple(_step(rng) for _ in range(rng.randint(1, 5))), rng.randint(1, 3)),
    *(lambda rng, size: Timeout(random_program(rng, size - 1), rng.choice(SPANS_MS)),) * 2,
    lambda rng, size: Catch(_half(rng, size), _half(rng, size)),
    lambda rng, size: Guard(_half(rng, size), _half(rng, size)),
)
