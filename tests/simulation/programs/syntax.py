"""Programs: what user code can do with a run, as frozen data that is interpreted, printed and shrunk.

A program is JSON too, so that it can be an argument of a call or an event's data.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

LIMIT = 3
"""Further attempts of a step."""
LATER_MS = 3_000
"""What a step asks for by `RetryAfter`."""
How = Literal["again", "later", "final"]
"""How a step fails: to be tried again, to be tried again after `LATER_MS`, or for good."""
By = Literal["", "k", "u"]
Asked = Literal["call", "enqueue", "cancel", "result", "rerun", "status"]


class Node(Struct, frozen=True, tag_field="do", omit_defaults=True):
    """What a part of a program does."""


class Step(Node, frozen=True, tag="step"):
    """A step that fails `fails` times and then gives `value`, or a text of `size`.

    `form`: async, `def`, inline, or by a member of a worker pool.
    """

    value: int = 0
    fails: int = 0
    how: How = "again"
    form: Literal["async", "thread", "inline", "pool"] = "async"
    took_ms: int = 0
    size: int = 0
    dawdles: bool = False
    """The run waits on something of its own before it asks for the step, as long as chance has it, each time anew."""


class Sleep(Node, frozen=True, tag="sleep"):
    ms: int
    moment: bool = False
    """Until a moment, not for a duration."""


class Wait(Node, frozen=True, tag="wait"):
    """For an event: by its data's `by` (empty: by its name alone), `value` or the trigger's, with n above `above`."""

    name: str = "go"
    by: By = "k"
    value: int | None = 0
    above: int | None = None
    ms: int | None = 60_000


class Send(Node, frozen=True, tag="send"):
    name: str = "go"
    k: int = 0
    u: int = 0
    n: int = 0


class Raise(Node, frozen=True, tag="raise"):
    """The function raises: for good, or to be retried whole."""

    final: bool = True


class Chance(Node, frozen=True, tag="chance"):
    """`ctx.random`, `ctx.uuid` and `ctx.now`: the same on every replay."""


class Fickle(Node, frozen=True, tag="fickle"):
    """Code reads what lies outside of the run, and asks for one thing or for another.

    `named`: for another step; else for the same step with other arguments.
    """

    named: bool = False


class Seq(Node, frozen=True, tag="seq"):
    parts: "tuple[Program, ...]"


class Gather(Node, frozen=True, tag="gather"):
    """Side by side; `strict`: the first error comes through, and the others go on."""

    parts: "tuple[Program, ...]"
    strict: bool = False


class Group(Node, frozen=True, tag="group"):
    """A TaskGroup: the first error cancels the others."""

    parts: "tuple[Program, ...]"


class InTurn(Node, frozen=True, tag="as_completed"):
    """`asyncio.as_completed`."""

    parts: "tuple[Program, ...]"


class Queue(Node, frozen=True, tag="queue"):
    """Workers that take parts from a queue and put what became of them into another."""

    parts: "tuple[Program, ...]"
    workers: int = 2


class Race(Node, frozen=True, tag="race"):
    parts: "tuple[Program, ...]"


class Map(Node, frozen=True, tag="map"):
    """`ctx.map` of steps, with their exceptions."""

    parts: tuple[Step, ...]
    limit: int = 2


class Timeout(Node, frozen=True, tag="timeout"):
    part: "Program"
    ms: int


class Catch(Node, frozen=True, tag="catch"):
    """`try: part; except Exception: undo`."""

    part: "Program"
    undo: "Program"


class Guard(Node, frozen=True, tag="guard"):
    """`try: part; finally: undo`."""

    part: "Program"
    undo: "Program"


class Patched(Node, frozen=True, tag="patched"):
    """Another way in runs that began after the change."""

    new: "Program"
    old: "Program"


class Child(Node, frozen=True, tag="child"):
    """Another run of the part: awaited, enqueued, enqueued and cancelled, awaited by its handle, run again, asked."""

    part: "Program"
    how: Asked = "call"
    delay_ms: int = 0


Program = (
    Step
    | Sleep
    | Wait
    | Send
    | Raise
    | Chance
    | Fickle
    | Seq
    | Gather
    | Group
    | InTurn
    | Queue
    | Race
    | Map
    | Timeout
    | Catch
    | Guard
    | Patched
    | Child
)
MANY = Seq | Gather | Group | InTurn | Queue | Race | Map
"""Programs with `parts`."""
EMPTY = Seq(())

_ENCODE = msgspec.json.Encoder().encode
_DECODER: msgspec.json.Decoder[Program] = msgspec.json.Decoder(Program)


def as_json(program: Program) -> bytes:
    return _ENCODE(program)


def from_json(raw: bytes | str) -> Program:
    return _DECODER.decode(raw)


def parts_of(program: Program) -> list[tuple[str, Program]]:
    """The parts right below, by the step that leads to each."""
    match program:
        case Seq() | Gather() | Group() | InTurn() | Queue() | Race() | Map():
            return [(str(index), part) for index, part in enumerate(program.parts)]
        case Timeout() | Child():
            return [("part", program.part)]
        case Catch() | Guard():
            return [("part", program.part), ("undo", program.undo)]
        case Patched():
            return [("new", program.new), ("old", program.old)]
        case _:
            return []


def every(program: Program) -> Iterator[Program]:
    """The program and all that is in it."""
    yield program
    for _, part in parts_of(program):
        yield from every(part)


def smaller(program: Program) -> Iterator[Program]:
    """Programs that are like this one with something left out, the boldest first."""
    below = [part for _, part in parts_of(program)]
    yield from below
    if isinstance(program, MANY):
        parts = program.parts
        for index in range(len(parts)):
            rest = parts[:index] + parts[index + 1 :]
            if rest and (len(rest) > 1 or not isinstance(program, Race)):
                yield replace(program, parts=rest)
        for index, part in enumerate(parts):
            for less in smaller(part):
                if isinstance(less, Step) or not isinstance(program, Map):
                    yield replace(program, parts=(*parts[:index], less, *parts[index + 1 :]))
    elif below:
        for name, part in parts_of(program):
            for less in smaller(part):
                yield replace(program, **{name: less})
    else:
        yield EMPTY
        if isinstance(program, Step) and program != Step():
            yield Step()
