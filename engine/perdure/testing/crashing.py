"""`crash_everywhere`: the engine dies right after each append in turn, and the outcome must be the same."""

from collections.abc import Awaitable, Callable
from typing import Any

from perdure.errors import PerdureError
from perdure.flow.patterns import is_own
from perdure.sdk.app import App
from perdure.sdk.events import Event
from perdure.sdk.local_port import LocalPort
from perdure.testing.engine import TestEngine
from perdure.testing.runs import run_of

Scenario = Callable[[TestEngine], Awaitable[object]]
Outcome = tuple[str, str, str, str]


async def crash_everywhere(
    app: App, *events: Event[Any], scenario: Scenario | None = None, evict: bool = False
) -> None:
    """Runs `events` (or a scenario that drives the engine) once, then again with a crash after each record.

    Raises AssertionError if any crash changes how a run ends, or parks one; the message names the record.
    """
    script = scenario or _sending(events)
    records, expected = await _once(app, script, evict, crash_after=None)
    for count in range(1, records + 1):
        _, outcome = await _once(app, script, evict, crash_after=count)
        if outcome != expected:
            lost = [one for one in expected if one not in outcome]
            new = [one for one in outcome if one not in expected]
            raise AssertionError(f"a crash after record {count} of {records} changes the outcome: {lost} became {new}")


def _sending(events: tuple[Event[Any], ...]) -> Scenario:
    async def script(engine: TestEngine) -> None:
        for event in events:
            await engine.send(event)
        await engine.finish()

    return script


async def _once(app: App, script: Scenario, evict: bool, crash_after: int | None) -> tuple[int, list[Outcome]]:
    engine = TestEngine(app, evict=evict)
    made = 0

    def count(record: int) -> bool:
        nonlocal made
        made = record
        return record == crash_after

    engine.log.on_append = count
    async with engine:
        await script(engine)
        await engine.settle()
        outcome = outcomes(engine)
        parked = [one for one in outcome if one[1] == "parked"]
        if parked:
            where = "without a crash" if crash_after is None else f"by a crash after record {crash_after}"
            raise AssertionError(f"parked {where}: {parked[0][0]}: {_why_parked(engine)}")
        if crash_after is not None and not engine.crashes:
            raise PerdureError(f"record {crash_after} was never written: the scenario is not the same each time")
        records = made
    return records, outcome


def outcomes(engine: TestEngine) -> list[Outcome]:
    """How every run stands: (function, status, output, error), sorted. Not the engine's own, which tell people of them:

    how many they tell of at a time goes by what comes when. One that is parked is a fault all the same.
    """
    port = LocalPort(engine.node)
    found: list[Outcome] = []
    for processor in engine.node.processors:
        for state in processor.view.runs.values():
            if is_own(state.function) and state.parked is None:
                continue
            run = run_of(engine.node, state, port.shown(state))
            error = "" if run.error is None else run.error.error_type
            found.append((state.function, run.status, repr(run.output), error))
    return sorted(found)


def _why_parked(engine: TestEngine) -> str:
    for processor in engine.node.processors:
        for state in processor.view.runs.values():
            if state.parked is not None:
                return state.parked.message
    return ""
