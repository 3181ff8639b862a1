"""What may become of a program: the outcomes that its text allows, whatever the log and its readers do.

`Model` knows nothing of logs, folds or loops. It judges what came of a run: what was told, or which error went up.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tests.simulation.programs import syntax
from tests.simulation.programs.player import Told, text_of
from tests.simulation.programs.syntax import LIMIT, Program

OOPS, VALUE, STEP, RUN = "Oops", "ValueError", "StepError", "RunFailed"
WAYS = (syntax.Step(value=0), syntax.Step(value=1))
"""What fickle code asks for."""
_OF_STEPS = {"ConnectionError", "RetryAfter", "Crashed"}
FAILS_BY = {OOPS: {OOPS}, VALUE: {VALUE}, STEP: _OF_STEPS, RUN: {*_OF_STEPS, VALUE, "RunCancelled", "TimeoutError"}}
"""What goes up from a program → the class that the log gives for the end of its run."""


class Known(NamedTuple):
    """What may have happened around a run."""

    events: Mapping[str, Mapping[str, Any]]
    """Event → its data, name and id, of all that were ever in the log."""
    trigger: Mapping[str, Any]
    """The trigger's data; empty for what was called by name."""
    result_of: Callable[[str], Told | None]
    """The result of another run, if it completed."""
    died: bool = False
    """Processes died: a step that died alone several times may have failed by that."""


class Model:
    """Judges one run."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.used: list[str] = []
        """Events that waits of the run gave, in no order."""

    # Errors

    def errors(self, program: Program) -> set[str]:
        """What may go up from it."""
        match program:
            case syntax.Step():
                return self._errors_of_step(program)
            case syntax.Fickle():
                return self._errors_of_step(WAYS[0])
            case syntax.Raise():
                return {OOPS if program.final else VALUE}
            case syntax.Gather():
                return self._any(program.parts) if program.strict else set()
            case syntax.Seq() | syntax.InTurn() | syntax.Race():
                return self._any(program.parts)
            case syntax.Timeout():
                return self.errors(program.part)
            case syntax.Catch():
                return self.errors(program.undo) if self.errors(program.part) else set()
            case syntax.Guard():
                return self.errors(program.part) | self.errors(program.undo)
            case syntax.Patched():
                return self.errors(program.new) | self.errors(program.old)
            case syntax.Child():
                return self._errors_of_child(program)
            case _:
                return set()

    def _errors_of_step(self, step: syntax.Step) -> set[str]:
        found = {STEP} if self._known.died else set[str]()
        if step.fails and step.how == "final":
            found.add(OOPS)
        elif step.fails > LIMIT:
            found.add(STEP)
        return found

    def _any(self, parts: Iterable[Program]) -> set[str]:
        return {error for part in parts for error in self.errors(part)}

    def _errors_of_child(self, child: syntax.Child) -> set[str]:
        """Who waits for a run learns of its failure, and of a cancel from anywhere."""
        if child.how not in ("call", "result", "rerun"):
            return set()
        return {RUN} | (self.errors(child.part) & {OOPS})

    def ends(self, program: Program) -> bool:
        """Whether it may come to its end without an error."""
        match program:
            case syntax.Step():
                return step_ends(program)
            case syntax.Raise():
                return False
            case syntax.Gather():
                return not program.strict or all(map(self.ends, program.parts))
            case syntax.Seq() | syntax.InTurn():
                return all(map(self.ends, program.parts))
            case syntax.Race():
                return any(map(self.ends, program.parts))
            case syntax.Timeout():
                return True
            case syntax.Catch():
                return self.ends(program.part) or self.ends(program.undo)
            case syntax.Guard():
                return self.ends(program.part) and self.ends(program.undo)
            case syntax.Patched():
                return self.ends(program.new) or self.ends(program.old)
            case syntax.Child():
                return program.how not in ("call", "result", "rerun") or self.ends(program.part)
            case _:
                return True

    # What was told

    def allows(self, program: Program, told: Any) -> str:
        """Why `told` cannot be what came of `program`; empty if it can."""
        try:
            self._check(program, told)
        except Refused as refused:
            return str(refused)
        return ""

    def _check(self, program: Program, told: Any) -> None:
        check = _CHECKS[type(program)]
        refuse(not isinstance(told, list) or not told, program, told)
        check(self, program, told)

    def _check_or_error(self, program: Program, told: Any) -> None:
        """Where an error is told in place of a result."""
        if isinstance(told, list) and told[:1] == ["error"]:
            refuse(told[1] not in self.errors(program), program, told)
        else:
            self._check(program, told)

    def _step(self, step: syntax.Step, told: Told) -> None:
        refuse(told != ["ok", text_of(step)] or not step_ends(step), step, told)

    def _sleep(self, sleep: syntax.Sleep, told: Told) -> None:
        refuse(told != ["slept"], sleep, told)

    def _send(self, send: syntax.Send, told: Told) -> None:
        event = self._known.events.get(told[1]) if told[0] == "sent" else None
        data = {"k": send.k, "u": send.u, "n": send.n}
        refuse(event is None or event["name"] != send.name or event["data"] != data, send, told)

    def _chance(self, chance: syntax.Chance, told: Told) -> None:
        refuse(told[0] != "chance" or not 0 <= told[1] < 1_000 or len(told[2]) != 36, chance, told)

    def _wait(self, wait: syntax.Wait, told: Told) -> None:
        if told == ["late"]:
            refuse(wait.ms is None, wait, told)
            return
        event = self._known.events.get(told[1]) if told[0] == "went" else None
        refuse(event is None, wait, told)
        assert event is not None
        data = event["data"]
        refuse(event["name"] != wait.name or data.get("n") != told[2], wait, told)
        refuse(wait.above is not None and data["n"] <= wait.above, wait, told)
        if wait.by:
            own = wait.value is None and self._known.trigger
            value = self._known.trigger[wait.by] if own else wait.value or 0
            refuse(data.get(wait.by) != value, wait, told)
        self.used.append(told[1])

    def _fickle(self, program: syntax.Fickle, told: Told) -> None:
        refuse(told[0] != "way" or told[1] not in map(text_of, WAYS), program, told)

    def _seq(self, program: syntax.Seq, told: Told) -> None:
        refuse(told[0] != "seq", program, told)
        self._each(program, program.parts, told[1:])

    def _each(self, program: Program, parts: tuple[Program, ...], told: Told) -> None:
        refuse(len(told) != len(parts), program, told)
        for part, one in zip(parts, told, strict=True):
            self._check(part, one)

    def _gather(self, program: syntax.Gather, told: Told) -> None:
        refuse(told[0] != "gather" or len(told) != len(program.parts) + 1, program, told)
        for part, one in zip(program.parts, told[1:], strict=True):
            (self._check if program.strict else self._check_or_error)(part, one)

    def _group(self, program: syntax.Group, told: Told) -> None:
        if told[0] == "group failed":
            errors = self._any(program.parts)
            refuse(not told[1] or not set(told[1]) <= errors or len(told[1]) > len(program.parts), program, told)
            return
        refuse(told[0] != "group", program, told)
        self._each(program, program.parts, told[1:])

    def _in_turn(self, program: syntax.InTurn, told: Told) -> None:
        refuse(told[0] != "in turn", program, told)
        self._in_any_order(program, program.parts, told[1:], self._check)

    def _queue(self, program: syntax.Queue, told: Told) -> None:
        refuse(told[0] != "queue", program, told)
        self._in_any_order(program, program.parts, told[1:], self._check_or_error)

    def _in_any_order(
        self, program: Program, parts: tuple[Program, ...], told: Told, check: Callable[[Program, Any], None]
    ) -> None:
        refuse(sorted(one[0] for one in told) != list(range(len(parts))), program, told)
        for index, one in told:
            check(parts[index], one)

    def _race(self, program: syntax.Race, told: Told) -> None:
        refuse(told[0] != "race" or not 0 <= told[1] < len(program.parts), program, told)
        self._check(program.parts[told[1]], told[2])

    def _map(self, program: syntax.Map, told: Told) -> None:
        refuse(told[0] != "map" or len(told) != len(program.parts) + 1, program, told)
        for part, one in zip(program.parts, told[1:], strict=True):
            self._check_or_error(part, one)

    def _timeout(self, program: syntax.Timeout, told: Told) -> None:
        if told != ["timed out"]:
            refuse(told[0] != "in time", program, told)
            self._check(program.part, told[1])

    def _catch(self, program: syntax.Catch, told: Told) -> None:
        if told[0] == "undone":
            refuse(told[1] not in self.errors(program.part), program, told)
            self._check(program.undo, told[2])
        else:
            refuse(told[0] != "kept", program, told)
            self._check(program.part, told[1])

    def _guard(self, program: syntax.Guard, told: Told) -> None:
        refuse(told[0] != "guarded", program, told)
        self._check(program.part, told[1])
        self._check(program.undo, told[2])

    def _patched(self, program: syntax.Patched, told: Told) -> None:
        refuse(told[0] not in ("new", "old"), program, told)
        self._check(program.new if told[0] == "new" else program.old, told[1:])

    def _child(self, program: syntax.Child, told: Told) -> None:
        words = {"call": "called", "enqueue": "enqueued", "cancel": "cancelled"}
        refuse(told[0] != words.get(program.how, program.how), program, told)
        match program.how:
            case "call":
                self._of_child(program.part, told[1])
            case "result" | "rerun":
                refuse(self._known.result_of(told[1]) != told[2], program, told)
                self._of_child(program.part, told[2])
            case "status":
                refuse(told[2] not in STATUSES, program, told)
            case _:
                pass

    def _of_child(self, program: Program, told: Told) -> None:
        """The child is a run of its own, without a trigger: what it consumed is not its parent's."""
        why = Model(self._known._replace(trigger={})).allows(program, told)
        if why:
            raise Refused(why)


class Refused(Exception):
    """The text of the program does not allow it."""


def refuse(wrong: bool, program: Program, told: Any) -> None:
    if wrong:
        raise Refused(f"{syntax.as_json(program).decode()[:500]} cannot give {str(told)[:500]}")


def step_ends(step: syntax.Step) -> bool:
    """Whether some attempt of it gives its value."""
    return not step.fails or (step.how != "final" and step.fails <= LIMIT)


STATUSES = {"queued", "running", "suspended", "parked", "completed", "failed", "cancelled", "discarded"}
_CHECKS: dict[type[Any], Callable[[Model, Any, Any], None]] = {
    syntax.Step: Model._step,
    syntax.Sleep: Model._sleep,
    syntax.Wait: Model._wait,
    syntax.Send: Model._send,
    syntax.Chance: Model._chance,
    syntax.Fickle: Model._fickle,
    syntax.Seq: Model._seq,
    syntax.Gather: Model._gather,
    syntax.Group: Model._group,
    syntax.InTurn: Model._in_turn,
    syntax.Queue: Model._queue,
    syntax.Race: Model._race,
    syntax.Map: Model._map,
    syntax.Timeout: Model._timeout,
    syntax.Catch: Model._catch,
    syntax.Guard: Model._guard,
    syntax.Patched: Model._patched,
    syntax.Child: Model._child,
}
