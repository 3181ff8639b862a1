"""`perdure logs`, and the lines in `runs show`."""

import asyncio
import json

import pytest

from perdure.sdk.port import OpDetail, RunDetail, RunSummary
from perdure_schemas.records import LogLevel, RunLogged, V
from tests.cli.conftest import Perdure
from tests.http.fake_port import FakePort

T0 = 1_700_000_000_000


def line(message: str, level: LogLevel = "info", op: str = "", attempt: int = 0, error: str = "") -> RunLogged:
    return RunLogged(V, "r1", T0, level, "shop", message, op, attempt, error)


async def test_lines_are_printed_one_by_one(port: FakePort, perdure: Perdure) -> None:
    port.add("r1")
    port.logged = [
        line("began"),
        line("charging", "warning", "0/charge#1", 2),
        line("failed", "error", "0/ship it#1", 1, "Traceback (most recent call last):\nshop.Late: late\n"),
        RunLogged(V, "r2", T0, "info", "shop", "of another run"),
    ]
    done = await perdure("logs", "r1")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "22:13:20.000 info     began",
        "22:13:20.000 warning  charge try 2: charging",
        "22:13:20.000 error    ship it: failed",
        "    Traceback (most recent call last):",
        "    shop.Late: late",
    ]


async def test_a_level_and_what_is_above(port: FakePort, perdure: Perdure) -> None:
    port.add("r1")
    port.logged = [line("d", "debug"), line("i"), line("w", "warning"), line("c", "critical")]
    done = await perdure("logs", "r1", "--level", "warning")
    assert [text.split()[-1] for text in done.output.splitlines()] == ["w", "c"]
    assert (await perdure("logs", "r1", "--level", "loud")).exit_code == 2


async def test_json_is_a_record_a_line(port: FakePort, perdure: Perdure) -> None:
    port.add("r1")
    port.logged = [line(f"{n}\nx") for n in range(450)]
    done = await perdure("logs", "r1", "--json")
    records = [json.loads(text) for text in done.output.splitlines()]
    assert [record["message"] for record in records] == [f"{n}\nx" for n in range(450)]
    assert records[0]["kind"] == "run.logged"


async def test_following_ends_with_the_run(port: FakePort, perdure: Perdure) -> None:
    """After its end it looks once more: the last lines are on their way for a moment."""
    port.add("r1")
    port.logged = [line("first")]

    async def go_on() -> None:
        await asyncio.sleep(0.05)
        port.logged.append(line("second"))
        port.end("r1")
        port.logged.append(line("third"))

    going = asyncio.create_task(go_on())
    done = await perdure("logs", "r1", "-f")
    await going
    assert [text.split()[-1] for text in done.output.splitlines()] == ["first", "second", "third"]


async def test_an_unknown_run(perdure: Perdure) -> None:
    done = await perdure("logs", "nobody")
    assert done.exit_code == 3
    assert "no run 'nobody'" in done.output


HOSTILE = ("a\nb", "\x1b[31mred", "\x1b]0;title\x07", "\u202egnp", "\x00", "[bold]x[/bold]", "tab\there")


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_lines_steer_no_terminal(port: FakePort, perdure: Perdure, text: str) -> None:
    port.add("r1")
    port.details["r1"] = RunDetail(
        RunSummary("r1", "flow", "running", requested_at=T0), ops=(OpDetail("0/a#1", "a", "step", "open", T0),)
    )
    port.logged = [line(text, error=text), line(text, "info", "0/a#1", 1)]
    for done in (await perdure("logs", "r1"), await perdure("runs", "show", "r1")):
        assert done.exit_code == 0
        assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(done.output)


async def test_a_message_is_one_line_whatever_is_in_it(port: FakePort, perdure: Perdure) -> None:
    port.add("r1")
    port.logged = [line("forged\n22:13:20.000 error    not this")]
    assert (await perdure("logs", "r1")).output == "22:13:20.000 info     forged\\n22:13:20.000 error    not this\n"


async def test_a_run_is_shown_with_the_last_lines_of_its_steps(port: FakePort, perdure: Perdure) -> None:
    ops = (OpDetail("0/a#1", "a", "step", "completed", T0), OpDetail("0/b#1", "b", "step", "completed", T0))
    port.details["r1"] = RunDetail(RunSummary("r1", "flow", "completed", requested_at=T0), ops=ops)
    port.logged = [line("outside"), *(line(f"line-{n}", op="0/b#1", attempt=1) for n in range(8))]
    short = (await perdure("runs", "show", "r1")).output
    assert [n for n in range(8) if f"line-{n}" in short] == [3, 4, 5, 6, 7]
    assert "… 3 lines before (perdure logs)" in short
    assert short.index("line-7") < short.index("logged outside steps") < short.index("outside\n")
    whole = (await perdure("runs", "show", "r1", "--all")).output
    assert all(f"line-{n}" in whole for n in range(8))
