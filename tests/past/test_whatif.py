"""What-if: with the definitions of the past nothing differs; with others it goes as the same events go with that app.

That nothing differs is also asked of each world of the simulator: tests/simulation/checks/besides.py.
"""

import asyncio
from collections.abc import Mapping
from random import Random

import pytest
from msgspec.structs import replace

from perdure import CancelOn, Trigger
from perdure.errors import LogMismatch
from perdure.log.memory import MemoryLog
from perdure.partition import snapshots
from perdure.past.beside import Beside
from perdure.past.order import ordered
from perdure.past.reading import read_tape
from perdure.past.tale import Tale, Told
from perdure.past.tape import Tape
from perdure.past.whatif import Difference, WhatIf, what_if
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure.testing import TestEngine
from tests.partition.test_trimming import begin, body, rest
from tests.past.changes import Shape, app_of, lived, random_shape

PAIRS = 24
BOUGHT = CancelOn("cart/bought", match="data.cart")
LATE = 1 << 60


def tales(tape: Tape, shape: Shape | None) -> tuple[dict[str, Told], dict[str, Told]]:
    was, would = Tale(), Tale()
    beside = Beside(tape, None if shape is None else app_of(shape).definition(), was, would)
    for stood in ordered(tape.parts, beside.waits_for):
        beside.take(stood)
    return was.runs, would.runs


@pytest.mark.parametrize("seed", range(PAIRS))
async def test_it_goes_as_the_same_events_go_with_the_other_app(seed: int) -> None:
    rng = Random(seed)
    one, other = random_shape(rng), random_shape(rng)
    if seed % 2:
        other = {**one, **dict(list(other.items())[:1])}
    tape = await lived(one, Random(seed))
    assert what_if(tape, app_of(one).definition()).differences == []
    was, would = tales(tape, other)
    _, real = tales(await lived(other, Random(seed)), None)
    unsure = {run for run, told in real.items() if _is_unknown(was.get(run), told)}
    sure = {run: _shown(told) for run, told in would.items() if run not in unsure and told.origin not in unsure}
    assert sure == {run: _shown(told) for run, told in real.items() if run not in unsure}


def _is_unknown(was: Told | None, real: Told) -> bool:
    """Its own timeout ended it, and whether it would have run so long the log of the other app cannot tell."""
    if real.fate is None or real.fate.what != "timed_out" or real.ended_at is None:
        return False
    return was is None or (was.ended_at or LATE) < real.ended_at


def _shown(told: Told) -> object:
    return replace(told, number=0)


SHOP: Mapping[str, object] = {"on": "cart/added"}
CHANGES: dict[str, tuple[Shape, Shape, dict[str, str]]] = {
    "a condition": (
        {"remind": SHOP},
        {"remind": {"on": Trigger("cart/added", where="event.data.total > 100")}},
        {"e0": "starts_no_longer: where='event.data.total > 100' is not true of it"},
    ),
    "no condition": (
        {"remind": {"on": Trigger("cart/added", where="event.data.total > 100")}},
        {"remind": SHOP},
        {"e0": "starts: where='event.data.total > 100' was not true of it; 'cart/added' fits now"},
    ),
    "another event": (
        {"remind": SHOP},
        {"remind": {"on": "cart/bought"}},
        {
            "e0": "starts_no_longer: it has no trigger for 'cart/added'",
            "e1": "starts_no_longer: it has no trigger for 'cart/added'",
            "b1": "starts: it had no trigger for 'cart/bought'; 'cart/bought' fits now",
        },
    ),
    "a function gone": (
        {"remind": SHOP, "audit": {"on": "cart/bought"}},
        {"remind": SHOP},
        {"b1": "starts_no_longer: the app has no function 'audit'"},
    ),
    "a cancel rule": (
        {"remind": SHOP},
        {"remind": {**SHOP, "cancel_on": (BOUGHT,)}},
        {"e1": "cancelled: cancel_on 'cart/bought' is new"},
    ),
    "no cancel rule": (
        {"remind": {**SHOP, "cancel_on": (BOUGHT,)}},
        {"remind": SHOP},
        {"e1": "goes_on: cancel_on 'cart/bought' is gone"},
    ),
    "a rule that matches otherwise": (
        {"remind": {**SHOP, "cancel_on": (BOUGHT,)}},
        {"remind": {**SHOP, "cancel_on": (CancelOn("cart/bought", match={"data.cart": 7}),)}},
        {"e1": "goes_on: cancel_on 'cart/bought' does not match any more"},
    ),
    "a timeout": (
        {"remind": SHOP},
        {"remind": {**SHOP, "timeout": "90m"}},
        {"e0": "timed_out: its timeout is 1h30m, and was none"},
    ),
    "a schedule": (
        {"nightly": {"cron": "30 1 * * *"}},
        {"nightly": {"cron": "30 0 * * *"}},
        {
            "": "starts_no_longer: its schedule is '30 0 * * *' in UTC, and was '30 1 * * *' in UTC",
            " ": "starts: its schedule is '30 0 * * *' in UTC, and was '30 1 * * *' in UTC",
        },
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_it_names_the_event_and_the_reason(change: str) -> None:
    one, other, expected = CHANGES[change]
    async with TestEngine(app_of(one)) as engine:
        await engine.send("cart/added", {"cart": 0, "total": 100}, id="e0")
        await engine.advance("1h")
        await engine.send("cart/added", {"cart": 1, "total": 200}, id="e1")
        await engine.send("cart/bought", {"cart": 1}, id="b1")
        await engine.advance("1h")
        await engine.send("the/end", {})
        tape = await read_tape(engine.log)
    assert _told(what_if(tape, app_of(other).definition())) == expected


def _told(found: WhatIf) -> dict[str, str]:
    return {_event_of(one): f"{one.what}: {one.why}" for one in found.differences}


def _event_of(one: Difference) -> str:
    return one.event_id or (" " if one.what == "starts" else "")


async def test_what_runs_sent_goes_with_them() -> None:
    """`echo` sends an event: were there no such function, what came of that event would not be there either."""
    app = app_of({"left": {"on": "user/left"}})
    async with TestEngine(app) as engine:
        await engine.send("user/left", {}, id="own")
        await engine.send("echo/wanted", {})
        tape = await read_tape(engine.log)
    whole = app.definition()
    without = replace(whole, functions=tuple(one for one in whole.functions if one.id != "echo"))
    (run,) = [one for one in what_if(tape, without).differences if one.function == "left"]
    assert run.what == "starts_no_longer"
    assert run.why == "its event comes of a run that goes otherwise, and would not have been sent"


async def test_counts_and_differences_begin_at_since() -> None:
    async with TestEngine(app_of({"remind": SHOP})) as engine:
        for number in range(5):
            await engine.send("cart/added", {}, id=f"e{number}")
        tape = await read_tape(engine.log)
    whole = what_if(tape, app_of({}).definition())
    assert _started(whole, "remind") == (5, 0)
    assert [one.event_id for one in whole.differences] == [f"e{number}" for number in range(5)]
    later = what_if(tape, app_of({}).definition(), whole.differences[2].at)
    assert _started(later, "remind") == (3, 0)
    assert later.differences == whole.differences[2:]


def _started(found: WhatIf, function: str) -> tuple[int, int]:
    (one,) = [one for one in found.functions if one.function == function]
    return one.was.started, one.would.started


async def test_the_log_of_another_app_is_refused() -> None:
    tape = await lived({}, Random(1), events=1)
    with pytest.raises(LogMismatch, match="the log of app 'shop', not of 'other'"):
        what_if(tape, replace(app_of({}).definition(), app="other"))


async def test_of_a_trimmed_log_it_tells_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same definitions all is as it was, and with others it differs for what is left alone."""
    monkeypatch.setattr(snapshots, "TRIM_MS", 0)
    log = MemoryLog(3, retention_ms=0)
    node, port = await begin(log)
    for number in range(5):
        await port.send([body("placed", f"e{number}", b'{"cart":%d,"fails":false,"text":""}' % number)])
        await rest(node)
    await _sent(port, node)
    tape = await read_tape(log)
    definition = node.definition
    await node.close()
    found = what_if(tape, definition)
    assert found.trimmed
    assert found.differences == []
    none = what_if(tape, replace(definition, functions=()))
    assert [one.event_id for one in none.differences] == ["last"]


async def _sent(port: LocalPort, node: Node) -> None:
    """One more event, of which nothing is trimmed."""
    await port.send([body("placed", "last", b'{"cart":9,"fails":false,"text":""}')])
    for _ in range(40):
        await asyncio.sleep(0)
