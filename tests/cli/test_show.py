"""`runs show`: a run as people read it."""

import json

import pytest
from click.testing import Result
from msgspec import Raw

from perdure.sdk.port import Attempt, OpDetail, RunDetail, RunSummary
from perdure_schemas.payload import ErrorInfo
from tests.cli.conftest import Perdure
from tests.http.fake_port import FakePort

T0 = 1_700_000_000_000
TRACE = """Traceback (most recent call last):
  File "/app/shop.py", line 9, in ship
    raise Late("late")
shop.Late: late
"""


def late(attempts: int) -> ErrorInfo:
    return ErrorInfo("shop.Late", "late\nvery", TRACE, attempts=attempts, step="ship")


RUN = RunDetail(
    RunSummary("r1", "checkout", "parked", "event", "e1", T0, T0 + 3_723_000, metadata={"tenant": "acme"}),
    event=Raw(b'{"id":"e1","name":"shop/order.placed","data":{"n":1}}'),
    error=ErrorInfo("shop.Odd", "odd", "Traceback (most recent call last):\nshop.Odd: odd\n"),
    ops=(
        OpDetail(
            *("0/charge#1", "charge", "step", "completed", T0 + 5, T0 + 17),
            attempts=(Attempt(1, T0 + 17, 12_345),),
            input=Raw(b'[["o-1",5],{"fast":true}]'),
            result=Raw(b'{"paid":true}'),
        ),
        OpDetail(
            *("0/ship#1", "ship", "step", "failed", T0 + 20, T0 + 2_000),
            attempts=(Attempt(1, T0 + 30, 900, late(1), 1_000), Attempt(2, T0 + 2_000, 800, late(2))),
            error=late(2),
        ),
        OpDetail("0/sleep#1", "sleep", "sleep", "completed", T0 + 2_000, T0 + 62_000, about="1m"),
        OpDetail("0/wait#1", "shop/paid", "wait", "open", T0 + 62_000, about="shop/paid, data.order = o-1, for 1d"),
        OpDetail(*("0/embed#1", "embed", "step", "open", T0 + 62_000), queue="gpu", dispatches=2, member="host-7:4711"),
        OpDetail("0/embed#2", "embed", "step", "open", T0 + 62_000, queue="cpu", dispatches=1),
        OpDetail("0/x#1", "loser", "step", "closed", T0 + 62_000),
    ),
    progress={"stage": "charged"},
    parked="recorded  charge('o-1')\nrequested charge('o-2')",
)


async def show(port: FakePort, perdure: Perdure, detail: RunDetail, *args: str) -> Result:
    port.details[detail.run.id] = detail
    return await perdure("runs", "show", detail.run.id, *args)


@pytest.mark.parametrize(
    "words",
    [
        "checkout",
        "event e1",
        "queue gpu, 2 times · host-7:4711",
        "queue cpu, nobody has it yet",
        "after 1h2m3s",
        "tenant=acme",
        "stage=charged",
        '{"id":"e1","name":"shop/order.placed","data":{"n":1}}',
        "parked: it asked for something else",
        "  recorded  charge('o-1')\n  requested charge('o-2')",
        '("o-1", 5, fast=true) → {"paid":true}',
        "12ms",
        "try 1, 900µs: shop.Late: late; again in 1s",
        "try 2, 800µs: shop.Late: late",
        "waits for shop/paid, data.order = o-1, for 1d",
        "  1m  ",
        "closed before its result was needed",
        "step ship failed after 2 tries\n  Traceback",
        '  File "/app/shop.py", line 9, in ship\n      raise Late("late")\n  shop.Late: late',
        "the run failed\n  Traceback (most recent call last):\n  shop.Odd: odd",
    ],
)
async def test_what_is_shown(port: FakePort, perdure: Perdure, words: str) -> None:
    done = await show(port, perdure, RUN)
    assert done.exit_code == 0
    assert words in done.output


async def test_json_is_the_run_itself(port: FakePort, perdure: Perdure) -> None:
    shown = json.loads((await show(port, perdure, RUN, "--json")).output)
    assert shown["ops"][0]["input"] == [["o-1", 5], {"fast": True}]
    assert shown["parked"] == RUN.parked


async def test_of_a_long_run_the_ends_and_the_unusual_are_shown(port: FakePort, perdure: Perdure) -> None:
    ops = [OpDetail(f"0/s#{n}", f"row{n:04}", "step", "completed", T0, T0 + 1) for n in range(3_000)]
    ops[1_500] = OpDetail("0/s#1500", "row1500", "step", "failed", T0, T0 + 1, error=late(1))
    detail = RunDetail(RUN.run, ops=tuple(ops))
    shown = (await show(port, perdure, detail)).output
    assert "row0019" in shown
    assert "row0020" not in shown
    assert "… 1,480 more (--all)" in shown
    assert "row1500" in shown
    assert "row2980" in shown
    assert len(shown.splitlines()) < 80
    assert "row0777" in (await show(port, perdure, detail, "--all")).output


async def test_long_values_are_cut_unless_all_is_asked_for(port: FakePort, perdure: Perdure) -> None:
    detail = RunDetail(RUN.run, result=Raw(b'"' + b"x" * 5_000 + b'"'))
    assert "(5,002 characters)" in (await show(port, perdure, detail)).output
    assert (await show(port, perdure, detail, "--all")).output.count("x") >= 5_000


EVIL = "[bold red]x[/] :smile: \x1b]0;owned\x07\x1b[2J \u202egnp.exe \u2066 \x9b31m \r\n\tend"


async def test_user_data_cannot_steer_the_terminal(port: FakePort, perdure: Perdure) -> None:
    raw = Raw(json.dumps({"x": EVIL}, ensure_ascii=False).encode())
    error = ErrorInfo("E", EVIL, f"Traceback\n  {EVIL}")
    op = OpDetail("0/x#1", EVIL, "step", "failed", T0, T0, (Attempt(1, T0, 1, error),), raw, raw, error, EVIL)
    summary = RunSummary("r1", EVIL, "failed", EVIL, EVIL, T0, metadata={EVIL: EVIL})
    detail = RunDetail(summary, raw, raw, raw, error, (op,), {"x": EVIL}, EVIL)
    for args in ([], ["--all"], ["--json"]):
        shown = (await show(port, perdure, detail, *args)).output
        assert not set(shown) & set("\x1b\x07\x9b\r\u202e\u2066")
        assert "[bold red]x[/] :smile:" in shown
    listed = (await perdure("runs", "list")).output
    assert not set(listed) & set("\x1b\x07\x9b\r\u202e\u2066")
    assert "\\x1b[2J" in listed


async def test_json_keeps_what_was_escaped(port: FakePort, perdure: Perdure) -> None:
    detail = RunDetail(RUN.run, result=Raw(json.dumps(EVIL + "ü😀", ensure_ascii=False).encode()))
    assert json.loads((await show(port, perdure, detail, "--json")).output)["result"] == EVIL + "ü😀"
