"""What runs log: on the side topic `logs`, once, bounded, and never felt by user code."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from perdure import App, Context, DefinitionError, Engine, current_step
from perdure.log import open_log
from perdure.log.protocol import Log
from perdure.sdk.node import Node
from perdure.testing import TestEngine
from perdure.worker import run_logs
from perdure.worker.run_logs import LINES_A_SECOND, MESSAGE_LIMIT_CHARS
from perdure_schemas.records import AnyLogged, RunLogged
from tests.worker.helpers import both_ways

OWN = logging.getLogger("shop.orders")
DECODE = msgspec.json.Decoder(AnyLogged).decode


@pytest.fixture(autouse=True)
def all_levels() -> Iterator[None]:
    """As an app has it that has set logging up."""
    before = OWN.level
    OWN.setLevel(logging.INFO)
    yield
    OWN.setLevel(before)


async def lines_of(log: Log) -> list[RunLogged]:
    """All lines on the topic of a log, by partition."""
    found: list[RunLogged] = []
    for partition in range(log.partitions):
        offset = 0
        while batches := await log.read_side("logs", partition, offset):
            records = [DECODE(value) for batch in batches for value in batch.values]
            found += [record for record in records if isinstance(record, RunLogged)]
            offset = batches[-1].offset + len(batches[-1].values)
    return found


async def arrived(log: Log, count: int) -> list[RunLogged]:
    """All lines of a log, once there are so many: nobody waits for what is best effort."""
    async with asyncio.timeout(30):
        while len(found := await lines_of(log)) < count:
            await asyncio.sleep(0.01)
    return found


async def logged(app: App, flow: Any, count: int, *, evict: bool = False) -> list[RunLogged]:
    """What one run of `flow` leaves, which is `count` lines."""
    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.finish()
        return await arrived(engine.log, count)


def texts(lines: list[RunLogged]) -> list[str]:
    return [line.message for line in lines]


# What a line says, and where it comes from


async def test_a_line_tells_its_run_step_level_logger_and_time() -> None:
    app = App("shop")

    @app.step
    async def charge(amount: int) -> None:
        current_step().logger.warning("charging %d", amount)

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.info("order of %s", "ada")
        await charge(5)

    async with TestEngine(app) as engine:
        handle = await flow.enqueue()
        await engine.finish()
        now = engine.log.now_ms()
        first, second = await arrived(engine.log, 2)
    assert first == RunLogged(1, handle.id, first.at, "info", "perdure.run.flow", "order of ada")
    assert second == RunLogged(1, handle.id, second.at, "warning", "perdure.step.charge", "charging 5", "0/charge#1", 1)
    assert 0 < first.at <= second.at <= now


@both_ways
async def test_lines_of_replayed_code_come_once(evict: bool) -> None:
    """Outside steps code runs again on every replay; in steps it never does."""
    app = App("shop")

    @app.step
    def pack(n: int) -> None:
        OWN.info("packs %d", n)

    @app.background
    async def flow(ctx: Context) -> None:
        try:
            ctx.logger.info("began")
            for n in range(3):
                OWN.info("round %d", n)
                await pack(n)
                await ctx.sleep("1h")
            ctx.logger.info("ended")
        finally:
            OWN.info("left")

    expected = ["began", *(text for n in range(3) for text in (f"round {n}", f"packs {n}")), "ended", "left"]
    assert texts(await logged(app, flow, len(expected), evict=evict)) == expected


async def test_a_line_of_a_cancelled_run_is_heard() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep("1h")
        finally:
            ctx.logger.info("tidied up")

    async with TestEngine(app) as engine:
        handle = await flow.enqueue()
        await handle.cancel()
        await engine.settle()
        assert texts(await arrived(engine.log, 1)) == ["tidied up"]


async def test_lines_of_tasks_and_threads_belong_to_their_run_and_step() -> None:
    app = App("shop")

    @app.step
    def count() -> None:
        OWN.info("in a thread")

    @app.step
    async def fan() -> None:
        async def inner() -> None:
            OWN.info("in a task of a step")

        await asyncio.gather(inner())
        await asyncio.to_thread(OWN.info, "in a thread of a step")

    @app.background
    async def flow(ctx: Context) -> None:
        async def branch() -> None:
            OWN.info("in a task")

        await asyncio.gather(branch())
        await count()
        await fan()

    found = {line.message: (line.op, line.attempt, line.logger) for line in await logged(app, flow, 4)}
    name = OWN.name
    assert found == {
        "in a task": ("", 0, name),
        "in a thread": ("0/count#1", 1, name),
        "in a task of a step": ("0/fan#1", 1, name),
        "in a thread of a step": ("0/fan#1", 1, name),
    }


async def test_each_attempt_says_which_one_it_is() -> None:
    app = App("shop")

    @app.step(retries=1)
    async def flaky() -> None:
        current_step().logger.info("trying")
        if current_step().attempt == 1:
            raise ValueError("not yet")

    @app.background
    async def flow() -> None:
        await flaky()

    assert [line.attempt for line in await logged(app, flow, 2)] == [1, 2]


POOLED = App("pooled")


@POOLED.step(queue="gpu")
def embed(text: str) -> None:
    OWN.info("embeds %s", text)
    current_step().logger.info("on the gpu")


@POOLED.background
async def embeds() -> None:
    await embed("ada")


async def test_bodies_of_pools_leave_lines_too() -> None:
    lines = await logged(POOLED, embeds, 2)
    assert [(line.message, line.op) for line in lines] == [
        ("embeds ada", "0/embed#1"),
        ("on the gpu", "0/embed#1"),
    ]


async def test_a_step_of_any_name_leaves_no_logger_behind() -> None:
    """What is registered in the logging module stays for good, and names may be made up at run time."""
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        for n in range(3):
            await ctx.step(f"part {n}", lambda: current_step().logger.info("done"))

    assert [line.logger for line in await logged(app, flow, 3)] == [f"perdure.step.part {n}" for n in range(3)]
    assert not [name for name in logging.Logger.manager.loggerDict if name.startswith("perdure.step.part")]


async def test_what_is_logged_outside_runs_is_left_alone() -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        OWN.info("of the run")

    async with TestEngine(app) as engine:
        OWN.warning("of the app")
        await flow.enqueue()
        assert texts(await arrived(engine.log, 1)) == ["of the run"]


async def test_the_traceback_goes_along() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        try:
            raise KeyError("cart")
        except KeyError:
            ctx.logger.exception("no cart")

    (line,) = await logged(app, flow, 1)
    assert line.level == "error"
    assert line.error.startswith("Traceback (most recent call last)")
    assert line.error.endswith("KeyError: 'cart'\n")


# Bounds


async def test_a_storm_is_cut_and_says_how_much_is_missing() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        for n in range(LINES_A_SECOND + 250):
            ctx.logger.info("%d", n)

    lines = await logged(app, flow, LINES_A_SECOND + 1)
    assert texts(lines[:-1]) == [str(n) for n in range(LINES_A_SECOND)]
    assert lines[-1].message == f"250 lines were left out: {LINES_A_SECOND} a second are kept of a run"
    assert lines[-1].level == "warning"


async def test_a_long_message_is_cut() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.info("x" * 1_000_000)

    (line,) = await logged(app, flow, 1)
    assert line.message == "x" * MESSAGE_LIMIT_CHARS + "… (1,000,000 characters)"


class Broken:
    """Of no text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Stopping(BaseException):
    pass


class Stops:
    def __str__(self) -> str:
        raise Stopping


class Chatty:
    """Logs itself while its text is made."""

    def __str__(self) -> str:
        OWN.info("inner %s", "line")
        return "chatty"


HOSTILE: list[tuple[Callable[[logging.Logger], None], str]] = [
    (lambda log: log.info("a\nb\tc"), "a\nb\tc"),
    (lambda log: log.info("\x1b[31mred\x1b]0;title\x07"), "\x1b[31mred\x1b]0;title\x07"),
    (lambda log: log.info("\u202egnp.exe"), "\u202egnp.exe"),
    (lambda log: log.info("name \udc80"), "name \\udc80"),
    (lambda log: log.info("<script>alert(1)</script>"), "<script>alert(1)</script>"),
    (lambda log: log.info("%s", Broken()), "(not formatted) %s"),
    (lambda log: log.info(Broken()), "(not formatted) its text cannot be made"),
    (lambda log: log.info("%s", Stops()), "(not formatted) %s"),
    (lambda log: log.info("%d of %d", *["one"]), "(not formatted) %d of %d"),
    (lambda log: log.info("%s", Chatty()), "chatty"),
    (lambda log: log.info({"a": 1}), "{'a': 1}"),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_hostile_messages_are_text_alone(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They fail neither the run nor the line, and are one record of JSON on one line."""
    # The test runner's own handlers format what they get; here nobody but the topic does.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "lastResort", None)
    say, message = HOSTILE[number]
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        say(ctx.logger)
        say(OWN)
        return "done"

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "done"
        assert texts(await arrived(engine.log, 2)) == [message, message]


# Levels, and the user's own handlers


class Kept(logging.Handler):
    """Somebody's handler."""

    def __init__(self, level: int = 0) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", ["d", "i", "w"]), ("INFO", ["i", "w"]), ("warning", ["w"]), ("off", [])],
)
async def test_the_setting_says_which_levels_are_kept(
    level: str, expected: list[str], log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the user's own handlers are set to."""
    monkeypatch.setenv("PERDURE_RUN_LOGS", level)
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.debug("d")
        ctx.logger.info("i")
        ctx.logger.warning("w")

    async with Engine(app, log=log_url) as engine:
        await flow.call()
        assert texts(await arrived(engine.nodes[0].log, len(expected))) == expected


async def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(DefinitionError, match="run_logs='loud': one of debug, info"):
        Engine(App("shop"), log="memory://", run_logs="loud")


async def test_own_handlers_see_what_their_levels_say_and_no_more() -> None:
    """The topic has the info lines of `ctx.logger`; a handler of an app that set its level to warning has not."""
    app = App("shop")
    kept, root = Kept(), logging.getLogger()
    root.addHandler(kept)
    before = root.level
    root.setLevel(logging.WARNING)

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.info("for the topic")
        ctx.logger.warning("for all")
        OWN.propagate = False
        OWN.info("for nobody")
        OWN.propagate = True

    try:
        lines = await logged(app, flow, 2)
    finally:
        root.removeHandler(kept)
        root.setLevel(before)
    assert texts(lines) == ["for the topic", "for all"]
    assert kept.texts == ["for all"]


async def test_handlers_filters_and_levels_of_the_name_count() -> None:
    app = App("shop")
    kept, named = Kept(), logging.getLogger("perdure.run.flow")
    named.addHandler(kept)
    named.setLevel(logging.DEBUG)

    def some(record: logging.LogRecord) -> bool:
        return "secret" not in record.getMessage()

    named.addFilter(some)

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.debug("one")
        ctx.logger.debug("secret")
        ctx.logger.setLevel(logging.ERROR)
        ctx.logger.info("not now")

    try:
        await logged(app, flow, 0)
    finally:
        named.removeHandler(kept)
        named.removeFilter(some)
        named.setLevel(logging.NOTSET)
    assert kept.texts == ["one"]


async def test_without_handlers_warnings_come_to_stderr_as_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logging module's last resort takes the topic's handler for one that people look at."""
    last = Kept(logging.WARNING)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "lastResort", last)
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.info("quiet")
        ctx.logger.warning("run")
        OWN.warning("own")

    async with TestEngine(app) as engine:
        OWN.warning("outside")
        await flow.enqueue()
        await engine.finish()
        named = Kept()
        logging.getLogger("perdure.run.flow").addHandler(named)
        await flow.enqueue()
        await engine.finish()
        logging.getLogger("perdure.run.flow").removeHandler(named)
    assert last.texts == ["outside", "run", "own", "own"]
    assert named.texts == ["run"]


async def test_the_handler_is_there_only_while_an_engine_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test may have left an engine of this process open, as one that is killed is.
    monkeypatch.setattr(run_logs, "_HANDLER", run_logs._Handler())
    root = logging.getLogger()
    before = list(root.handlers)
    app = App("shop")
    async with Engine(app, log="memory://"):
        assert len(root.handlers) == len(before) + 1
        async with TestEngine(App("other")):
            assert len(root.handlers) == len(before) + 1
        assert len(root.handlers) == len(before) + 1
    assert root.handlers == before
    node = Node(app, open_log("memory://", app="shop", partitions=1))
    await node.open()
    await node.kill()
    assert root.handlers == before


async def test_a_thread_that_outlives_its_engine_hurts_nobody() -> None:
    """The engine is closed, and its loop may be; the line is dropped."""
    app = App("shop")
    loggers: list[logging.Logger] = []

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.info("in time")
        loggers.append(ctx.logger)

    async with Engine(app, log="memory://") as engine:
        log = engine.nodes[0].log
        await flow.call()
        await arrived(log, 1)
    await asyncio.to_thread(loggers[0].info, "late")
    loggers[0].info("later")
    await asyncio.sleep(0)
    assert texts(await lines_of(log)) == ["in time"]


async def test_our_own_loggers_are_not_the_runs() -> None:
    """A warning of the engine may be logged in a run's context; it would come for every run, and in circles."""
    app = App("shop")

    @app.background
    async def flow() -> None:
        logging.getLogger("perdure.worker").warning("of the engine")
        logging.getLogger("perdure").warning("of the engine")
        OWN.info("of the run")

    assert texts(await logged(app, flow, 1)) == ["of the run"]
