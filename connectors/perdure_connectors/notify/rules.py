"""Who is told of what: for the app, and for those of its functions that have a rule of their own."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from perdure.errors import DefinitionError
from perdure.flow.ending import FAILED_EVENT, PARKED_EVENT
from perdure.flow.expressions import compile_where
from perdure.flow.expressions.render import literal
from perdure.sdk.node import HALTED_EVENT
from perdure_connectors.notify.message import KINDS, Destination, Happened
from perdure_schemas.definition import TriggerDefined

_EVENTS = {"failed": FAILED_EVENT, "parked": PARKED_EVENT, "halted": HALTED_EVENT}


class Rule(NamedTuple):
    """`names`: of destinations."""

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    link: str


_NOBODY = Rule((), (), "")


class Rules:
    """All that `notify` was told for one app."""

    def __init__(self) -> None:
        self.destinations: dict[str, Destination] = {}
        self._of_app = _NOBODY
        self._of: dict[str, Rule] = {}

    def add(
        self, functions: Sequence[str] | None, destinations: Sequence[Destination], on: Iterable[str] | None, link: str
    ) -> None:
        """A rule of these functions; None: of the app. Raises `DefinitionError`, and is as it was."""
        kinds = None if on is None else tuple(dict.fromkeys(on))
        if unknown := [kind for kind in kinds or () if kind not in KINDS]:
            raise DefinitionError(f"notify: on={unknown[0]!r} is none of {', '.join(KINDS)}")
        names = tuple(dict.fromkeys(one.name for one in destinations))
        if functions is None:
            rule = self._for_app(kinds, names, link)
        else:
            rule = self._for_functions(functions, kinds, names, link)
        self.destinations = self._with(destinations)
        if functions is None:
            self._of_app = rule
        else:
            self._of |= dict.fromkeys(functions, rule)

    def _with(self, destinations: Sequence[Destination]) -> dict[str, Destination]:
        named = dict(self.destinations)
        for one in destinations:
            if named.setdefault(one.name, one) != one:
                raise DefinitionError("notify: two destinations have the same name: give one of them name=…")
        return named

    def _for_app(self, kinds: tuple[str, ...] | None, names: tuple[str, ...], link: str) -> Rule:
        if self._of_app.kinds:
            raise DefinitionError("notify was called for this app already: give all destinations at once")
        if not names or kinds == ():
            raise DefinitionError("notify: at least one destination and one kind of news is needed")
        return Rule(KINDS if kinds is None else kinds, names, link)

    def _for_functions(
        self, functions: Sequence[str], kinds: tuple[str, ...] | None, names: tuple[str, ...], link: str
    ) -> Rule:
        if not functions:
            raise DefinitionError("notify: functions=[] is nothing; leave it out for the whole app")
        if twice := [one for one in functions if one in self._of]:
            raise DefinitionError(f"notify was called for {twice[0]!r} already: give all its destinations at once")
        if kinds is not None and "halted" in kinds:
            raise DefinitionError("notify: on='halted' is of a partition, and no function's: say it for the app")
        app = self._of_app
        if not (names or app.names):
            raise DefinitionError("notify, functions=…: give destinations, or say first who is told for the app")
        if kinds is None:
            kinds = tuple(kind for kind in app.kinds or KINDS if kind != "halted")
        return Rule(kinds, names or app.names, link or app.link)

    def rule_for(self, what: Happened) -> Rule:
        """By the function; a partition is the app's."""
        return self._of_app if what.kind == "halted" else self._of.get(what.about, self._of_app)

    def triggers(self) -> tuple[TriggerDefined, ...]:
        """What nobody is told of starts no run: the log has it as conditions."""
        found: list[TriggerDefined] = []
        for kind in KINDS:
            apart = [one for one, rule in self._of.items() if (kind in rule.kinds) != (kind in self._of_app.kinds)]
            listed = f"event.data.function_id in [{', '.join(map(literal, sorted(apart)))}]"
            if kind in self._of_app.kinds:
                found.append(TriggerDefined(_EVENTS[kind], f"!({listed})" if apart and kind != "halted" else ""))
            elif apart:
                found.append(TriggerDefined(_EVENTS[kind], listed))
        for one in found:
            _check(one.where)
        return tuple(found)


def _check(where: str) -> None:
    try:
        if where:
            compile_where(where)
    except DefinitionError as error:
        raise DefinitionError(f"notify: so many functions have a rule of their own that {error}") from None
