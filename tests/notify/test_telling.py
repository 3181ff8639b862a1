"""Who is told of what, on the engine as it ships and its virtual clock."""

from typing import Any

import pytest

from perdure import App, Context, Event
from perdure.errors import DefinitionError, NonRetriable
from perdure.testing import TestEngine, crash_everywhere
from perdure_connectors.notify import Message, notify

LINK = "https://perdure.example/v1/runs/{run}"


class Inbox:
    """A destination that keeps what it gets. `down`: so many deliveries fail first."""

    name = "inbox"

    def __init__(self, down: int = 0) -> None:
        self.down = down
        self.got: list[Message] = []
        self.keys: list[str] = []

    async def deliver(self, message: Message, key: str) -> None:
        self.keys.append(key)
        if self.down:
            self.down -= 1
            raise ConnectionError("down")
        self.got.append(message)


def failing_app(inbox: Inbox, **options: Any) -> App:
    app = App("shop")

    @app.function(on="order", retries=0)
    async def fulfil(ctx: Context, event: Event[Any]) -> str:
        if event.data.get("bad"):
            raise NonRetriable("no such\torder <!channel>")
        return "done"

    notify(app, inbox, link=LINK, **options)
    return app


async def test_a_failure_is_told_once() -> None:
    inbox = Inbox()
    async with TestEngine(failing_app(inbox)) as engine:
        await engine.send("order", {"bad": True}, id="e1")
        await engine.send("order", {}, id="e2")
        await engine.finish()
        (run,) = [run for run in engine.all_runs(engine.app.functions["fulfil"]) if run.status == "failed"]
    (message,) = inbox.got
    assert (message.app, message.count, message.first.about) == ("shop", 1, "fulfil")
    assert message.first.run == run.id
    assert message.link == f"https://perdure.example/v1/runs/{run.id}"
    assert message.title == "shop: fulfil failed"
    assert message.first.error.endswith("NonRetriable: no such\torder <!channel>")
    assert message.error.endswith("NonRetriable: no such order <!channel>")


async def test_a_storm_is_one_message() -> None:
    inbox = Inbox()
    async with TestEngine(failing_app(inbox)) as engine:
        for n in range(50):
            await engine.send("order", {"bad": True}, id=f"e{n}")
        await engine.finish()
    assert [message.count for message in inbox.got] == [50]
    assert inbox.got[0].title == "shop: fulfil failed 50 times"


async def test_a_long_storm_is_a_message_a_minute() -> None:
    inbox = Inbox()
    async with TestEngine(failing_app(inbox)) as engine:
        for n in range(60):
            await engine.send("order", {"bad": True}, id=f"e{n}")
            await engine.advance("5s")
        await engine.finish()
    assert sum(message.count for message in inbox.got) == 60
    assert len(inbox.got) <= 7


async def test_a_destination_that_is_down_is_tried_again_with_the_same_key() -> None:
    inbox = Inbox(down=5)
    async with TestEngine(failing_app(inbox)) as engine:
        await engine.send("order", {"bad": True}, id="e1")
        await engine.finish()
    assert len(inbox.got) == 1
    assert len(inbox.keys) == 6
    assert len(set(inbox.keys)) == 1


async def test_one_destination_does_not_wait_for_another() -> None:
    well, ill = Inbox(), Inbox(down=1000)
    ill.name = "ill"
    app = App("shop")

    @app.background(retries=0)
    async def fail() -> None:
        raise NonRetriable("no")

    notify(app, well, ill)
    async with TestEngine(app) as engine:
        await fail.enqueue()
        await engine.advance("10s")
        assert len(well.got) == 1
        await engine.finish()
        assert {run.status for run in engine.all_runs(app.functions["perdure/tell"])} == {"completed"}


async def test_the_engines_own_functions_are_not_shown() -> None:
    async with TestEngine(failing_app(Inbox())) as engine:
        await engine.send("order", {"bad": True}, id="e1")
        await engine.finish()
        assert [view.id for view in await engine.port.functions()] == ["fulfil"]
        runs, _ = await engine.port.runs()
        assert [run.function for run in runs] == ["fulfil"]
        asked, _ = await engine.port.runs(function="perdure/notice")
        assert [run.status for run in asked] == ["cancelled"]


@pytest.mark.parametrize("evict", [False, True], ids=["resident", "evicted"])
async def test_crashes_lose_no_message_and_double_it_at_most_once(evict: bool) -> None:
    inbox = Inbox()

    async def scenario(engine: TestEngine) -> None:
        inbox.got.clear()
        inbox.keys.clear()
        for n in range(2):
            await engine.send("order", {"bad": True}, id=f"e{n}")
        await engine.finish()
        keys = dict(zip(inbox.keys, inbox.got, strict=True))
        assert sum(message.count for message in keys.values()) == 2
        assert len(inbox.got) <= len(keys) + 1

    await crash_everywhere(failing_app(inbox), scenario=scenario, evict=evict)


async def test_a_cancelled_message_leaves_its_notices_to_the_next() -> None:
    inbox = Inbox()
    app = failing_app(inbox)
    async with TestEngine(app) as engine:
        await engine.send("order", {"bad": True}, id="e1")
        for run in engine.all_runs(app.functions["perdure/tell"]):
            await app.functions["perdure/tell"].handle(run.id).cancel()
        await engine.finish()
    assert [message.count for message in inbox.got] == [1]


async def test_a_run_that_is_parked_is_told_of() -> None:
    inbox, changed = Inbox(), False
    app = App("shop")

    @app.function(on="go")
    async def flow(ctx: Context, event: Event[Any]) -> None:
        await ctx.step("second" if changed else "first", thing)
        await ctx.sleep("1d")

    async def thing() -> int:
        return 1

    notify(app, inbox)
    async with TestEngine(app, evict=True) as engine:
        await engine.send("go", {})
        changed = True
        await engine.advance("2d")
        assert engine.run(flow).status == "parked"
    (message,) = inbox.got
    assert (message.title, message.count) == ("shop: flow is parked", 1)
    assert "first" in message.error


async def test_a_partition_that_halts_is_told_of() -> None:
    inbox = Inbox()
    async with TestEngine(failing_app(inbox)) as engine:
        engine.log.append(1, b'{"kind":"nobody.knows","v":1}')
        await engine.finish()
        assert list(engine.node.halted) == [1]
    (message,) = inbox.got
    assert message.title == "shop: partition 1 has halted"
    assert "nobody.knows" in message.error


async def test_only_what_was_asked_for() -> None:
    inbox = Inbox()
    async with TestEngine(failing_app(inbox, on=["parked", "halted"])) as engine:
        await engine.send("order", {"bad": True}, id="e1")
        await engine.finish()
    assert inbox.got == []


class Kitchen:
    """An app with three functions that fail, and one that is parked by its next deploy."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.changed = False

        @app.function(on="go", retries=0)
        async def cook(ctx: Context, event: Event[Any]) -> None:
            raise NonRetriable("burnt")

        @app.function(on="go", retries=0)
        async def wash(ctx: Context, event: Event[Any]) -> None:
            raise NonRetriable("wet")

        @app.function(on="go", retries=0, id='serve "hot"')
        async def serve(ctx: Context, event: Event[Any]) -> None:
            raise NonRetriable("cold")

        @app.function(on="go")
        async def clean(ctx: Context, event: Event[Any]) -> None:
            await ctx.step("second" if self.changed else "first", _thing)
            await ctx.sleep("1d")

        self.cook, self.wash, self.serve, self.clean = cook, wash, serve, clean


async def _thing() -> int:
    return 1


async def run_all(kitchen: Kitchen) -> None:
    async with TestEngine(kitchen.app, evict=True) as engine:
        await engine.send("go", {}, id="e1")
        kitchen.changed = True
        await engine.advance("2d")


def told(inbox: Inbox) -> set[tuple[str, str]]:
    return {(message.first.about, message.first.kind) for message in inbox.got}


SERVE = 'serve "hot"'


async def test_a_function_has_a_rule_of_its_own() -> None:
    kitchen, all_of, cooks = Kitchen(), Inbox(), Inbox()
    cooks.name = "cooks"
    notify(kitchen.app, all_of, link=LINK)
    notify(kitchen.app, cooks, functions=[kitchen.cook], link="https://cook.example/{run}")
    notify(kitchen.app, functions=[kitchen.wash, kitchen.serve], on=[])
    await run_all(kitchen)
    assert told(all_of) == {("clean", "parked")}
    assert told(cooks) == {("cook", "failed")}
    assert cooks.got[0].link == f"https://cook.example/{cooks.got[0].first.run}"


async def test_what_is_left_out_is_as_for_the_app() -> None:
    kitchen, inbox = Kitchen(), Inbox()
    notify(kitchen.app, inbox, on=["failed"], link=LINK)
    notify(kitchen.app, functions=[kitchen.clean, kitchen.cook], on=["parked"])
    await run_all(kitchen)
    assert told(inbox) == {("wash", "failed"), (SERVE, "failed"), ("clean", "parked")}
    assert all(message.link for message in inbox.got)


async def test_only_functions_with_rules_and_nothing_for_the_app() -> None:
    kitchen, inbox = Kitchen(), Inbox()
    notify(kitchen.app, inbox, functions=[kitchen.serve, kitchen.clean])
    await run_all(kitchen)
    assert told(inbox) == {(SERVE, "failed"), ("clean", "parked")}


async def test_what_nobody_is_told_of_starts_no_run() -> None:
    kitchen, inbox = Kitchen(), Inbox()
    notify(kitchen.app, inbox)
    notify(kitchen.app, functions=[kitchen.wash], on=[])
    async with TestEngine(kitchen.app) as engine:
        await engine.send("go", {}, id="e1")
        await engine.finish()
        assert len(engine.all_runs(kitchen.app.functions["perdure/notice"])) == 2


def test_rules_of_functions_that_cannot_be_right() -> None:
    kitchen, other = Kitchen(), Kitchen()
    with pytest.raises(DefinitionError, match="say first who is told for the app"):
        notify(kitchen.app, functions=[kitchen.cook], on=[])
    with pytest.raises(DefinitionError, match="is no function of App"):
        notify(kitchen.app, Inbox(), functions=[other.cook])
    with pytest.raises(DefinitionError, match="leave it out"):
        notify(kitchen.app, Inbox(), functions=[])
    with pytest.raises(DefinitionError, match="no function's"):
        notify(kitchen.app, Inbox(), functions=[kitchen.cook], on=["halted"])
    assert "perdure/notice" not in kitchen.app.functions
    notify(kitchen.app, Inbox(), functions=[kitchen.cook])
    with pytest.raises(DefinitionError, match="'cook' already"):
        notify(kitchen.app, functions=[kitchen.cook])
    with pytest.raises(DefinitionError, match="the same name"):
        notify(kitchen.app, Inbox())


def test_so_many_rules_that_no_condition_holds_them() -> None:
    app = App("shop")
    many = [app.background(id=f"function-{n:03d}")(_thing) for n in range(200)]
    notify(app, Inbox())
    with pytest.raises(DefinitionError, match="at most 2048"):
        notify(app, functions=many, on=[])


def test_calls_that_cannot_be_right() -> None:
    app = App("shop")
    with pytest.raises(DefinitionError, match="'fail' is none of failed"):
        notify(app, Inbox(), on=["fail"])
    with pytest.raises(DefinitionError, match="at least one"):
        notify(app)
    with pytest.raises(DefinitionError, match="the same name"):
        notify(app, Inbox(), Inbox())
    notify(app, Inbox())
    with pytest.raises(DefinitionError, match="already"):
        notify(app, Inbox())
