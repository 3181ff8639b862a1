"""`send`, `functions`, `runs …`: what they ask, what they print, what they exit with."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from perdure.cli import main
from perdure.cli.backfill import per_second
from perdure.cli.exits import UsageProblem
from perdure.cli.output import moment
from perdure.errors import LogError, LogFull
from perdure.sdk.port import FunctionView
from tests.cli.conftest import Perdure
from tests.http.fake_port import FakePort


async def test_send(port: FakePort, perdure: Perdure) -> None:
    done = await perdure("send", "cart/added", "--data", '{"n": 1}', "--id", "e1", "--user", '{"id": "ada"}')
    assert (done.exit_code, done.output) == (0, "e1\n")
    (event,) = port.events
    assert (event.name, bytes(event.data), bytes(event.user)) == ("cart/added", b'{"n": 1}', b'{"id": "ada"}')


async def test_send_reads_files_and_standard_input(port: FakePort, perdure: Perdure, tmp_path: Path) -> None:
    tmp_path.joinpath("data.json").write_text('{\n "n": 2\n}\n')
    assert (await perdure("send", "a", "--data", "@data.json")).exit_code == 0
    assert (await perdure("send", "a", "--data", "-", stdin=b' {"n": 3}')).exit_code == 0
    assert [bytes(event.data) for event in port.events] == [b'{"n":2}', b'{"n": 3}']
    assert (await perdure("send", "a", "--data", "@none.json")).exit_code == 2


async def test_send_prints_json(port: FakePort, perdure: Perdure) -> None:
    done = await perdure("send", "a", "--json")
    assert json.loads(done.output) == {"ids": [port.events[0].id]}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["a", "--data", "{'n': 1}"], "--data is not JSON"),
        (["a", "--data", "[1]"], "--data must be a JSON object"),
        (["a", "--data", '{"n": NaN}'], "NaN is not JSON"),
        (["a", "--data", '{"n": 1, "n": 2}'], "the key 'n' is twice"),
        (["a/*"], "'*' stands for many names"),
        (["a", "--id", "x\ny"], "control characters"),
        ([], "Missing argument 'NAME'"),
        (["a", "--dta", "{}"], "No such option"),
    ],
)
async def test_wrong_usage(port: FakePort, perdure: Perdure, args: list[str], words: str) -> None:
    done = await perdure("send", *args)
    assert done.exit_code == 2
    assert words in done.output
    assert port.events == []


async def test_what_the_engine_refuses(port: FakePort, perdure: Perdure) -> None:
    done = await perdure("send", "perdure/mine")
    assert done.exit_code == 1
    assert "the engine's own" in done.output
    port.fail = LogFull("the disk is full")
    assert (await perdure("send", "a")).exit_code == 5
    port.fail = LogError("partition 2 has halted")
    done = await perdure("send", "a", "--json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["error"] == {"type": "LogError", "detail": "partition 2 has halted"}


async def test_functions(perdure: Perdure) -> None:
    done = await perdure("functions")
    assert done.exit_code == 0
    assert "on shop/order.placed" in done.output
    assert "when called" in done.output
    listed = json.loads((await perdure("functions", "--json")).output)["data"]
    assert [view["id"] for view in listed] == [
        "order",
        "mail",
    ]


async def test_runs_list(port: FakePort, perdure: Perdure) -> None:
    for n in range(3):
        port.add(f"r{n}", event_id="e1", status="suspended")
    done = await perdure(
        "runs", "list", "--function", "order", "--status", "suspended", "--event", "e1", "--limit", "2"
    )
    assert done.exit_code == 0
    assert "r1" in done.output
    assert "event e1" in done.output
    assert "there may be more: --cursor 2" in done.stderr
    page = json.loads((await perdure("runs", "list", "--cursor", "2", "--json")).stdout)
    assert ([run["id"] for run in page["data"]], page["cursor"]) == (["r2"], "")


async def test_runs_list_finds_nothing(perdure: Perdure) -> None:
    assert (await perdure("runs", "list")).output == "no runs\n"
    assert (await perdure("runs", "list", "--function", "order")).output == "no runs\n"
    done = await perdure("runs", "list", "--function", "ordr")
    assert done.exit_code == 3
    assert "did you mean 'order'?" in done.output
    assert (await perdure("runs", "list", "--status", "done")).exit_code == 2


async def test_runs_cancel(port: FakePort, perdure: Perdure) -> None:
    for n in range(3):
        port.add(f"r{n}")
    done = await perdure("runs", "cancel", "r0", "r1", "--reason", "recall")
    assert (done.exit_code, done.output) == (0, "cancelled 2 runs\n")
    assert port.cancelled == [("r0", "recall"), ("r1", "recall")]
    port.end("r2")
    done = await perdure("runs", "cancel", "--function", "order", "--json")
    assert json.loads(done.output)["count"] == 2
    assert (await perdure("runs", "cancel")).exit_code == 2
    assert (await perdure("runs", "cancel", "r0", "--function", "order")).exit_code == 2
    assert (await perdure("runs", "cancel", "r9")).exit_code == 3


async def test_runs_rerun(port: FakePort, perdure: Perdure) -> None:
    port.add("r0")
    assert (await perdure("runs", "rerun", "r0")).output == "r0-again\n"
    assert json.loads((await perdure("runs", "rerun", "r0", "--json")).output) == {"run_ids": ["r0-again"]}
    done = await perdure("runs", "rerun", "r9")
    assert done.exit_code == 3
    assert "no run 'r9' is known" in done.output


async def test_runs_unpark(port: FakePort, perdure: Perdure) -> None:
    port.add("r0", status="parked")
    port.add("r1")
    assert (await perdure("runs", "unpark", "r0")).output == "r0 tries to go on\n"
    assert json.loads((await perdure("runs", "unpark", "r0", "--json")).output) == {"run_ids": ["r0"]}
    assert port.unparked == ["r0", "r0"]
    done = await perdure("runs", "unpark", "r1")
    assert (done.exit_code, "run 'r1' is not parked: it is running" in done.output) == (1, True)
    assert (await perdure("runs", "unpark", "r9")).exit_code == 3


async def test_pause_and_resume(port: FakePort, perdure: Perdure) -> None:
    assert (await perdure("pause", "mail", "order")).output == (
        "mail is paused: its runs wait until `perdure resume mail`\n"
        "order is paused: its runs wait until `perdure resume order`\n"
    )
    assert (await perdure("resume", "mail")).output == "mail goes on\n"
    assert json.loads((await perdure("pause", "mail", "--json")).output) == {"functions": ["mail"]}
    assert port.pauses == [("mail", True), ("order", True), ("mail", False), ("mail", True)]
    assert (await perdure("pause", "nobody")).exit_code == 3


async def test_functions_says_what_is_paused(port: FakePort, perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    async def functions() -> list[FunctionView]:
        return [FunctionView("mail", "background", paused_since=1_700_000_000_000, waiting=17)]

    assert "paused" not in (await perdure("functions")).output
    monkeypatch.setattr(port, "functions", functions)
    shown = (await perdure("functions")).output
    assert "paused since" in shown
    assert moment(1_700_000_000_000) in shown
    assert "17" in shown


async def test_an_unknown_run(perdure: Perdure) -> None:
    done = await perdure("runs", "show", "nope", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["error"]["type"] == "UnknownRun"


def test_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = CliRunner().invoke(main, ["functions", "--url", f"http://127.0.0.1:{free.getsockname()[1]}"])
    assert done.exit_code == 4
    assert "start one with `perdure dev module:app`" in done.output


def test_help_names_the_exit_codes() -> None:
    assert "4 no engine answers" in CliRunner().invoke(main, ["--help"]).output


@pytest.mark.parametrize(
    ("text", "rate"), [("50/s", 50), ("120/m", 2), ("5/10s", 0.5), ("1/h", 1 / 3600), ("0.5/s", 0.5), ("", 0)]
)
def test_a_rate_is_so_many_in_some_time(text: str, rate: float) -> None:
    assert per_second(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["50", "/s", "x/s", "0/s", "-1/s", "1/0s", "1/fortnight", "nan/s", "1e9/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="say how many in what time"):
        per_second(text)
