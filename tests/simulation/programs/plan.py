"""Plans: what comes from outside, move by move. With its programs a plan is all that a world is told to do."""

import random
from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tests.simulation.programs.changes import Changes
from tests.simulation.programs.generate import KEYS, USERS, random_program
from tests.simulation.programs.syntax import Patched, Program, every, smaller

Name = Literal["go", "stop", "cart", "bought"]
What = Literal["cancel", "rerun", "status"]
_STORM: tuple[Name, ...] = ("cart", "cart", "cart", "bought")
_NAMES: tuple[Name, ...] = ("go", "go", "go", "go", "go", "stop", "cart", "bought")
_WHAT: tuple[What, ...] = ("cancel", "cancel", "rerun", "status")


class Move(Struct, frozen=True, tag_field="move", omit_defaults=True):
    """Something from outside."""


class Enqueue(Move, frozen=True, tag="enqueue"):
    program: Program
    key: str
    delay_ms: int = 0


class Begin(Move, frozen=True, tag="begin"):
    """An event that starts a program. An id that comes again changes nothing."""

    id: str
    program: Program
    k: int = 0
    u: int = 0
    again: int = 0
    after_ms: int = 0
    """The producer's `ts`: a start that long after."""


class Tell(Move, frozen=True, tag="tell"):
    """An event for who waits, or that cancels: `go`, `stop`, `cart`, `bought`."""

    name: Name
    id: str
    k: int = 0
    u: int = 0
    n: int = 0


class Meddle(Move, frozen=True, tag="meddle"):
    """Cancel, run again, or ask for the status of a run: the one at `nth` of those that were asked for."""

    what: What
    nth: int
    key: str


class Pass(Move, frozen=True, tag="pass"):
    ms: int


class Crash(Move, frozen=True, tag="crash"):
    """Where one process is all there is, it dies here. `version`: of the code that comes after."""

    version: int | None = None


class Pause(Move, frozen=True, tag="pause"):
    """A function is paused, or goes on."""

    function: str
    paused: bool
    key: str


AnyMove = Enqueue | Begin | Tell | Meddle | Pass | Crash | Pause
Plan = tuple[AnyMove, ...]
PAUSED = ("play", "play", "begun", "abandoned", "basket")
"""Functions that are paused: some of all versions of the app."""
PASSING_MS = (1, 50, 1_000, 120_000, 3_600_000)


def random_plan(rng: random.Random, moves: int, *, crashes: bool = True) -> Plan:
    """A plan by chance. Some are storms, in which every event is both trigger and cancel."""
    patched = rng.random() < 0.4
    storm = rng.random() < 0.25
    sizes = rng.choice(((1, 3), (3, 8), (1, 3, 8, 12, 30)))
    version = 0
    plan: list[AnyMove] = []
    for n in range(moves):
        draw = rng.random()
        if storm and draw < 0.7:
            name = rng.choice(_STORM)
            plan.append(Tell(name, f"{name}-{n}", rng.randrange(2), rng.randrange(2), rng.randrange(5)))
        elif draw < 0.25:
            program = random_program(rng, rng.choice(sizes), patched=patched)
            plan.append(Enqueue(program, f"enqueue-{n}", rng.choice((0, 0, 0, 1, 60_000))))
        elif draw < 0.45:
            plan.append(
                Begin(
                    # An id may come again: the second one changes nothing.
                    f"begin-{rng.randrange(12)}",
                    random_program(rng, rng.choice((1, 3, 8))),
                    rng.randrange(KEYS),
                    rng.randrange(USERS),
                    rng.choice((0, 0, 1, 2)),
                    rng.choice((0, 0, 0, 60_000)),
                )
            )
        elif draw < 0.68:
            name = rng.choice(_NAMES)
            plan.append(Tell(name, f"{name}-{n}", rng.randrange(KEYS), rng.randrange(USERS), rng.randrange(5)))
        elif draw < 0.74:
            plan.append(Meddle(rng.choice(_WHAT), rng.randrange(100), f"meddle-{n}"))
        elif draw < 0.92 or not crashes:
            plan.append(Pass(rng.choice(PASSING_MS)))
        elif patched and version < 2 and rng.random() < 0.3:
            # Runs that began before a change go the old way, those that begin after it the new one: code goes forward.
            version += 1
            plan.append(Crash(version))
        elif not patched and rng.random() < 0.3:
            plan.append(Crash(rng.randrange(3)))
        else:
            plan.append(Crash())
    return tuple(plan)


def whole_plan(plan: Plan, rng: random.Random, *, pools: bool) -> Plan:
    """The same with what programs learned since: steps of pools, code that is fickle, code that waits on its own.

    Code that is fickle is deployed more often: it is there that what a run began with is not what it goes on with.
    """
    programs = [move.program for move in plan if isinstance(move, Enqueue | Begin)]
    forward = any(isinstance(part, Patched) for program in programs for part in every(program))
    fickle = rng.choice((0.0, 0.2, 0.6))
    changed = Changes(
        rng, pools=rng.choice((0.1, 0.4)) if pools else 0.0, fickle=fickle, dawdles=rng.random(), long=rng.random()
    )
    found: list[AnyMove] = []
    version = 0
    for move in plan:
        if isinstance(move, Crash) and move.version is not None:
            version = max(version, move.version) if forward else move.version
            found.append(Crash(version))
        else:
            found.append(
                replace(move, program=changed.whole(move.program)) if isinstance(move, Enqueue | Begin) else move
            )
        if fickle and rng.random() < 0.25:
            version = min(version + 1, 2) if forward else rng.randrange(3)
            found.append(Crash(version))
    return tuple(found)


def with_pauses(plan: Plan, rng: random.Random) -> Plan:
    """The same with functions that are paused now and then, and go on or not."""
    found: list[AnyMove] = []
    for n, move in enumerate(plan):
        found.append(move)
        if rng.random() < 0.3:
            found.append(Pause(rng.choice(PAUSED), rng.random() < 0.6, f"pause-{n}"))
    return tuple(found)


def smaller_plans(plan: Plan) -> Iterator[Plan]:
    """Plans like this one with something left out, the boldest first."""
    size = len(plan) // 2
    while size >= 1:
        for at in range(0, len(plan), size):
            yield plan[:at] + plan[at + size :]
        size //= 2
    for at, move in enumerate(plan):
        if isinstance(move, Enqueue | Begin):
            for less in smaller(move.program):
                yield (*plan[:at], replace(move, program=less), *plan[at + 1 :])


def as_json(plan: Plan) -> str:
    """One move a line."""
    return "[\n" + ",\n".join(msgspec.json.encode(move).decode() for move in plan) + "\n]"


def from_json(raw: str | bytes) -> Plan:
    return tuple(msgspec.json.decode(raw, type=list[AnyMove]))
