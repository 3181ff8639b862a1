"""A definition made quick to ask: which functions does an event trigger?"""

from perdure.flow.expressions import Condition, compile_where
from perdure.flow.patterns import name_matches
from perdure_schemas.definition import Definition, FunctionDefined

Trigger = tuple[FunctionDefined, Condition | None]


class Routes:
    """Triggers of one definition, by event name."""

    def __init__(self, number: int, definition: Definition) -> None:
        self.number = number
        self.definition = definition
        self.functions = {function.id: function for function in definition.functions}
        self._exact: dict[str, list[Trigger]] = {}
        self._wild: list[tuple[str, FunctionDefined, Condition | None]] = []
        for function in definition.functions:
            for trigger in function.triggers:
                condition = compile_where(trigger.where) if trigger.where else None
                if "*" in trigger.event:
                    self._wild.append((trigger.event, function, condition))
                else:
                    self._exact.setdefault(trigger.event, []).append((function, condition))

    def triggered_by(self, name: str) -> list[Trigger]:
        """Functions with a trigger for this name, each with its condition; a function may stand twice."""
        exact = self._exact.get(name, [])
        if not self._wild:
            return exact
        return exact + [(function, where) for pattern, function, where in self._wild if name_matches(pattern, name)]
