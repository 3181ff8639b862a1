"""What programs learned after seeds had been recorded: by chance, leaves of a program become others."""

import random

from msgspec.structs import replace

from tests.simulation.programs.syntax import (
    Catch,
    Child,
    Fickle,
    Gather,
    Group,
    Guard,
    InTurn,
    Map,
    Patched,
    Program,
    Queue,
    Race,
    Seq,
    Step,
    Timeout,
)


class Changes:
    """Probabilities: that a step is one for a pool; is fickle; waits on something of its own first; takes long."""

    def __init__(self, rng: random.Random, *, pools: float, fickle: float, dawdles: float, long: float) -> None:
        self._rng = rng
        self._long = long
        self._pools = pools
        self._fickle = fickle
        self._dawdles = dawdles

    def whole(self, program: Program) -> Program:
        """Of a run. It may begin fickle: then each replay, however late, finds out."""
        changed = self.of(program)
        return Seq((self._fickle_one(), changed)) if self._rng.random() < self._fickle else changed

    def of(self, program: Program, *, waits: bool = True) -> Program:
        """`waits`: nothing around it ends it by what comes first, so that it may wait on what is not durable.

        Where something does, such code goes another way on its replay, and is parked as it should be.
        """
        match program:
            case Step():
                return self._step(program, waits=waits)
            case Map():
                return replace(program, parts=tuple(self._pooled(part) for part in program.parts))
            case Seq() | Gather() | Group() | InTurn() | Queue() | Race():
                waits = waits and (isinstance(program, Seq) or (isinstance(program, Gather) and not program.strict))
                return replace(program, parts=tuple(self.of(part, waits=waits) for part in program.parts))
            case Timeout():
                return replace(program, part=self.of(program.part, waits=False))
            case Child():
                return replace(program, part=self.of(program.part))
            case Catch() | Guard():
                part, undo = self.of(program.part, waits=waits), self.of(program.undo, waits=waits)
                return replace(program, part=part, undo=undo)
            case Patched():
                return replace(program, new=self.of(program.new, waits=waits), old=self.of(program.old, waits=waits))
            case _:
                return program

    def _step(self, step: Step, *, waits: bool) -> Program:
        if self._rng.random() < self._fickle:
            return self._fickle_one()
        step = self._pooled(step)
        return replace(step, dawdles=True) if waits and self._rng.random() < self._dawdles else step

    def _fickle_one(self) -> Fickle:
        return Fickle(named=self._rng.random() < 0.5)

    def _pooled(self, step: Step) -> Step:
        if self._rng.random() < self._long:
            step = replace(step, took_ms=self._rng.choice((300, 1_000, 4_000)))
        return replace(step, form="pool") if self._rng.random() < self._pools else step
