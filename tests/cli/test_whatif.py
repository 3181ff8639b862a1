"""`perdure whatif`, on an embedded log that an engine has left."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perdure import App, Context, Engine, Event
from perdure.cli import main

OTHER = """
from perdure import App, Context, Event, Trigger

app = App("shop")


@app.function(on=Trigger("shop/order.placed", where="event.data.total > 0"))
async def order(ctx: Context, event: Event) -> str:
    return ""


other = App("other")
"""
app = App("shop")


@app.function(on="shop/order.placed")
async def order(ctx: Context, event: Event) -> str:
    return "shipped"


async def perdure(*args: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, list(args))


@pytest.fixture
async def log(clean: Path) -> str:
    """Of three orders, one of which would like to steer the terminal; beside it the module `changed`."""
    async with Engine(app, log="embedded://log") as engine:
        for number, name in enumerate(["o0", "o1", "\x1b[31mo2"]):
            await engine.send("shop/order.placed", {"total": number % 2}, id=name)
        while len((await engine.port.runs(status="completed"))[0]) < 3:
            await asyncio.sleep(0.01)
    Path("changed_shop.py").write_text(OTHER, encoding="utf-8")
    return "embedded://log"


async def test_it_tells_what_differs(log: str) -> None:
    shown = await perdure("whatif", "changed_shop:app", "--log", log)
    assert shown.exit_code == 0, shown.output
    assert "3 → 1" in shown.stdout
    assert "2 differences:" in shown.stdout
    assert (
        "order: would not start, shop/order.placed o0: where='event.data.total > 0' is not true of it" in shown.stdout
    )
    assert "\x1b" not in shown.stdout
    short = await perdure("whatif", "changed_shop:app", "--log", log, "--limit", "1")
    assert "… and 1 more: --limit, or --json for all" in short.stdout
    told = json.loads((await perdure("whatif", "changed_shop:app", "--log", log, "--json")).stdout)
    assert [one["what"] for one in told["differences"]] == ["starts_no_longer"] * 2
    # Within one millisecond no order is known of events that came to two partitions.
    assert {one["event_id"] for one in told["differences"]} == {"o0", "\x1b[31mo2"}
    (function,) = told["functions"]
    assert (function["was"]["started"], function["would"]["started"]) == (3, 1)


async def test_the_same_app_makes_no_difference(log: str) -> None:
    same = await perdure("whatif", "tests.cli.test_whatif:app", "--log", log)
    assert same.exit_code == 0, same.output
    assert "nothing would have gone otherwise" in same.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("changed_shop:other", "--log", "embedded://log"), 5, "the log of app 'shop', not of 'other'"),
        (("changed_shop:app", "--log", "embedded://nowhere"), 5, "there is no log in nowhere"),
        (("changed_shop:nothing", "--log", "embedded://log"), 2, "there is none of that name; did you mean"),
        (("changed_shop:app", "--since", "2200-01-01", "--log", "embedded://log"), 2, "lies in the future"),
        (("changed_shop:app", "--since", "soon", "--log", "embedded://log"), 2, "say 1h, 7d, a time such as"),
    ],
)
async def test_what_cannot_be_is_said(log: str, args: tuple[str, ...], code: int, message: str) -> None:
    refused = await perdure("whatif", *args)
    assert (refused.exit_code, message in refused.stderr) == (code, True), refused.output


async def test_a_log_that_an_engine_has_open_is_named_as_such(clean: Path) -> None:
    async with Engine(app, log="embedded://log"):
        refused = await perdure("whatif", "tests.cli.test_whatif:app", "--log", "embedded://log")
    assert refused.exit_code == 5
    assert "embedded://log is in use by an engine, and all of it is to be read: stop that engine" in refused.stderr
