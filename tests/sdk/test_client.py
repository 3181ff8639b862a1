"""Engine and Client in this process, and Client and SyncClient over HTTP against a real server with `Engine.asgi()`."""

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import pytest
import uvicorn
from msgspec import Struct

from perdure import (
    App,
    Client,
    Context,
    DefinitionError,
    Engine,
    Event,
    EventType,
    Function,
    NonRetriable,
    OutsideRun,
    PayloadError,
    RunFailed,
    RunHandle,
    SyncClient,
    UnknownRun,
)
from perdure.errors import EngineClosed
from perdure.log.kafka.client import Client as KafkaClient
from perdure.log.kafka.client import partition_in
from perdure.log.kafka.log import KafkaLog
from perdure.testing import TestEngine

R = TypeVar("R")


class Order(Struct):
    id: str
    cents: int = 100


class SoldOut(NonRetriable):
    pass


PLACED = EventType("order/placed", Order)


class Shop:
    """An app with a function of each sort."""

    def __init__(self, name: str = "shop", **options: Any) -> None:
        app = self.app = App(name, **options)

        @app.step
        async def charge(order: Order) -> int:
            return order.cents

        @app.background
        async def pay(order: Order, times: int = 1) -> Order:
            return Order(order.id, times * await charge(order))

        @app.background
        async def fail(what: str) -> None:
            if what == "sold out":
                raise SoldOut("cups")
            raise NonRetriable(what)

        @app.background(retries=0)
        async def broken() -> None:
            raise OSError("down")

        @app.background
        async def late(ctx: Context) -> str:
            await ctx.sleep("30d")
            return "late"

        @app.background
        async def nap(ctx: Context) -> str:
            await ctx.sleep("20ms")
            return ctx.metadata.get("who", "nobody")

        @app.function(on=PLACED)
        async def fulfil(ctx: Context, event: Event[Order]) -> str:
            return f"{name} {event.data.id}"

        self.pay: Function[..., Order] = pay
        self.fail, self.broken, self.late, self.nap, self.fulfil = fail, broken, late, nap, fulfil


async def started(client: Client, function: Function[..., R], event_id: str) -> list[RunHandle[R]]:
    """The runs of an event. A shared log takes it in a moment later."""
    async with asyncio.timeout(30):
        while not (found := await client.runs(function, event_id=event_id)):
            await asyncio.sleep(0.01)
    return found


async def records_in(log: KafkaLog) -> int:
    """How many records the topic of events has."""
    consumer = KafkaClient(log.address).consumer()
    await consumer.start()
    places = [partition_in(log.events.topic, number) for number in range(log.events.partitions)]
    ends = await consumer.end_offsets(places)
    await consumer.stop()
    return sum(ends.values())


# In the engine's own process


async def test_an_engine_serves_the_functions_of_its_app(log_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=log_url):
        assert await shop.pay.call(Order("o1")) == Order("o1", 100)
        handle = await shop.pay.enqueue(Order("o2"), times=3)
        assert await handle.result() == Order("o2", 300)
        assert await handle.status() == "completed"


@pytest.mark.parametrize("kind", [Engine, Client])
def test_what_is_no_app_is_refused(kind: type[Client]) -> None:
    with pytest.raises(
        DefinitionError, match=f"'http://x' is no App: {kind.__name__}\\(app, log='…'\\) takes apps first"
    ):
        kind(cast("App", "http://x"))


async def test_an_engine_takes_events(log_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=log_url) as engine:
        event_id = await engine.send(PLACED(Order("o1")))
        (handle,) = await started(engine, shop.fulfil, event_id)
        assert await handle.result() == "shop o1"
        assert await engine.send_many([PLACED(Order("o2"), id="a"), PLACED(Order("o3"), id="b")]) == ["a", "b"]


async def test_timers_go_by_the_wall_clock(log_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=log_url):
        assert await shop.nap.options(metadata={"who": "ada"}, delay="10ms").call() == "ada"


async def test_failures_come_out_of_call(log_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=log_url):
        with pytest.raises(SoldOut, match="cups"):
            await shop.fail.call("sold out")
        with pytest.raises(RunFailed, match="down") as caught:
            await shop.broken.call()
        assert caught.value.caused_by(OSError)


async def test_what_is_in_the_log_goes_on_in_the_next_engine(durable_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=durable_url):
        handle = await shop.nap.options(delay="50ms").enqueue()
    async with Engine(shop.app, log=durable_url):
        assert await handle.result() == "nobody"


async def test_without_an_engine_a_call_says_what_to_do() -> None:
    shop = Shop()
    with pytest.raises(OutsideRun, match=r"no engine for 'shop' in this process: open Engine\(app\) or Client\(app\)"):
        await shop.pay.call(Order("o1"))
    with pytest.raises(OutsideRun, match="open Engine"):
        await shop.pay.handle("x").status()


async def test_a_closed_engine_serves_nobody(log_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=log_url) as engine:
        pass
    with pytest.raises(OutsideRun, match="no engine for 'shop'"):
        await shop.pay.call(Order("o1"))
    with pytest.raises(OutsideRun, match="this Engine is not open"):
        await engine.send("x", {})


async def test_an_engine_is_found_from_every_context(log_url: str) -> None:
    """FastAPI runs handlers in contexts that the lifespan's never reach."""
    shop = Shop()
    empty = contextvars.Context()
    async with Engine(shop.app, log=log_url):
        task = empty.run(asyncio.ensure_future, shop.pay.call(Order("o1")))
        assert await task == Order("o1", 100)


async def test_who_awaits_a_run_while_the_engine_closes_is_told_that_it_goes_on(tmp_path: Path) -> None:
    shop, log = Shop(), f"embedded://{tmp_path}"
    async with Engine(shop.app, log=log) as engine:
        handle = await shop.late.enqueue()
        waiting = [asyncio.ensure_future(handle.result()) for _ in range(2)]
        while len(engine.nodes[0].waiters.get(handle.id, ())) < 2:
            await asyncio.sleep(0)
        gave_up = waiting.pop()
        gave_up.cancel()
    with pytest.raises(EngineClosed, match=f"the engine closed while run '{handle.id}' was awaited: the run goes on"):
        await waiting[0]
    async with Engine(shop.app, log=log):
        assert await handle.status() in ("running", "suspended")


async def test_an_engine_of_several_apps(log_url: str) -> None:
    shop, depot = Shop("shop"), Shop("depot")
    async with Engine(shop.app, depot.app, log=log_url) as engine:
        event_id = await engine.send(PLACED(Order("o1")))
        for one in (shop, depot):
            (handle,) = await started(engine, one.fulfil, event_id)
            assert await handle.result() == f"{one.app.name} o1"
            assert await one.pay.call(Order("o1")) == Order("o1", 100)
            late = await one.late.enqueue()
            await late.cancel()
            assert await late.status() == "cancelled"
            assert await (await handle.rerun()).result() == f"{one.app.name} o1"


async def test_apps_that_share_a_topic_of_events_are_sent_each_event_once(kafka: str, tmp_path: Path) -> None:
    shop, depot = Shop("shop"), Shop("depot")
    log = f"kafka://{kafka}/test-{uuid4().hex[:12]}?data={tmp_path}"
    async with Engine(shop.app, depot.app, log=log) as engine:
        event_id = await engine.send(PLACED(Order("o1")))
        for one in (shop, depot):
            (handle,) = await started(engine, one.fulfil, event_id)
            assert await handle.result() == f"{one.app.name} o1"
        assert await records_in(cast("KafkaLog", engine.nodes[0].log)) == 1


async def test_an_engine_of_several_apps_keeps_each_ones_log(durable_url: str) -> None:
    shop, depot = Shop("shop"), Shop("depot")
    async with Engine(shop.app, depot.app, log=durable_url):
        handles = [await one.nap.options(delay="50ms").enqueue() for one in (shop, depot)]
    async with Engine(shop.app, depot.app, log=durable_url):
        assert [await handle.result() for handle in handles] == ["nobody", "nobody"]


async def test_engines_of_several_apps_beside_each_other(log_url: str) -> None:
    shop, depot = Shop("shop"), Shop("depot")
    async with Engine(shop.app, log=log_url), Engine(depot.app, log=log_url):
        assert await shop.pay.call(Order("o1")) == await depot.pay.call(Order("o1"))


async def test_a_run_of_one_app_may_call_a_function_of_another_by_a_step(log_url: str) -> None:
    shop, depot = Shop("shop"), Shop("depot")

    @shop.app.step
    async def ask(order: Order) -> Order:
        return await depot.pay.call(order)

    @shop.app.background
    async def order(order: Order) -> int:
        return (await ask(order)).cents

    async with Engine(shop.app, depot.app, log=log_url):
        assert await order.call(Order("o1")) == 100


async def test_a_call_of_another_apps_function_in_a_run_says_what_to_do(log_url: str) -> None:
    shop, depot = Shop("shop"), Shop("depot")

    @shop.app.background
    async def order(order: Order) -> int:
        return (await depot.pay.call(order)).cents

    async with Engine(shop.app, depot.app, log=log_url):
        with pytest.raises(RunFailed, match=r"'pay' is a function of another app: .* call it in a step"):
            await order.call(Order("o1"))


async def test_a_client_in_the_engines_process_asks_the_engine(log_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=log_url) as engine, Client(shop.app) as client:
        event_id = await client.send(PLACED(Order("o1")))
        (handle,) = await started(client, shop.fulfil, event_id)
        assert await handle.result() == "shop o1"
        assert await engine.runs(shop.fulfil) == [handle]


async def test_a_client_of_an_embedded_log_says_what_to_do() -> None:
    with pytest.raises(DefinitionError, match="an embedded log belongs to the process of its Engine"):
        async with Client(Shop().app, log="embedded:///var/lib/shop"):
            pass


async def test_the_lifespan_is_around_the_engine(log_url: str) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        seen.append("open")
        yield
        seen.append("closed")

    shop = Shop(lifespan=lifespan)
    async with Engine(shop.app, log=log_url):
        await shop.pay.call(Order("o1"))
        assert seen == ["open"]
    assert seen == ["open", "closed"]


async def test_a_lifespan_that_fails_leaves_nothing_open(log_url: str) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    shop = Shop(lifespan=lifespan)
    with pytest.raises(OSError, match="no database"):
        async with Engine(shop.app, log=log_url):
            pass
    with pytest.raises(OutsideRun):
        await shop.pay.call(Order("o1"))


async def test_the_log_of_the_environment(monkeypatch: pytest.MonkeyPatch, durable_url: str) -> None:
    monkeypatch.setenv("PERDURE_LOG", durable_url)
    shop = Shop()
    async with Engine(shop.app):
        handle = await shop.pay.enqueue(Order("o1"))
    monkeypatch.delenv("PERDURE_LOG")
    async with Engine(shop.app, log=durable_url):
        assert await handle.result() == Order("o1", 100)


async def test_an_engine_inside_a_test_engine_is_the_test_engine() -> None:
    shop = Shop()
    async with TestEngine(shop.app) as test, Engine(shop.app, log="embedded:///nowhere") as engine:
        assert engine.nodes == []
        await engine.send(PLACED(Order("o1")))
        assert test.run(shop.fulfil).output == "shop o1"
        assert await shop.pay.call(Order("o1")) == Order("o1", 100)
        handle = await shop.late.enqueue()
        await test.advance("31d")
        assert await handle.result() == "late"


async def test_the_lifespan_is_entered_once_inside_a_test_engine() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        seen.append("open")
        yield

    shop = Shop(lifespan=lifespan)
    async with TestEngine(shop.app), Engine(shop.app):
        assert seen == ["open"]


# Over HTTP


@asynccontextmanager
async def served(asgi: Callable[..., Any]) -> AsyncGenerator[str]:
    """An ASGI app on a free port, by uvicorn in this loop; its URL."""
    config = uvicorn.Config(asgi, port=0, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    serving = asyncio.create_task(server.main_loop())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        await server.shutdown()


@asynccontextmanager
async def remote(shop: Shop, log: str) -> AsyncGenerator[tuple[Client, Engine]]:
    """A client that reaches the engine by HTTP alone."""
    engine = Engine(shop.app, log=log)
    async with engine, served(engine.asgi()) as url, Client(shop.app, log=url) as client:
        yield client, engine


async def test_a_client_sends_events_and_finds_their_runs(log_url: str) -> None:
    shop = Shop()
    async with remote(shop, log_url) as (client, _):
        event_id = await client.send(PLACED(Order("o1")))
        (handle,) = await started(client, shop.fulfil, event_id)
        assert await handle.result() == "shop o1"
        assert await client.send("other", {"n": 1}, id="mine") == "mine"
        assert await client.send_many([PLACED(Order("o2"), id="a"), PLACED(Order("o3"), id="b")]) == ["a", "b"]


async def test_a_client_calls_and_enqueues(log_url: str) -> None:
    shop = Shop()
    async with remote(shop, log_url):
        assert await shop.pay.call(Order("o1"), times=2) == Order("o1", 200)
        handle = await shop.pay.enqueue(Order("o2"))
        assert await handle.result() == Order("o2", 100)
        assert await handle.status() == "completed"
        named = await shop.nap.options(metadata={"who": "ada"}, delay="10ms").enqueue()
        assert await named.result(timeout="20s") == "ada"


async def test_a_clients_key_gives_the_same_run(log_url: str) -> None:
    shop = Shop()
    async with remote(shop, log_url):
        keyed = shop.pay.options(idempotency_key="k")
        assert await keyed.enqueue(Order("o1")) == await keyed.enqueue(Order("o1"))


async def test_a_client_cancels_and_runs_again(log_url: str) -> None:
    shop = Shop()
    async with remote(shop, log_url) as (client, _):
        handle = await shop.late.enqueue()
        await handle.cancel(reason="enough")
        assert await handle.status() == "cancelled"
        with pytest.raises(RunFailed, match="enough"):
            await handle.result()
        again = await (await shop.pay.enqueue(Order("o1"))).rerun()
        assert await again.result() == Order("o1", 100)
        assert [run.id for run in await client.runs(shop.late, status="cancelled")] == [handle.id]


async def test_failures_come_through(log_url: str) -> None:
    shop = Shop()
    async with remote(shop, log_url):
        with pytest.raises(SoldOut, match="cups"):
            await shop.fail.call("sold out")
        with pytest.raises(RunFailed, match="down") as caught:
            await shop.broken.call()
        assert caught.value.caused_by(OSError)
        assert "in broken" in caught.value.traceback


async def test_what_is_unknown_or_late_is_said(log_url: str) -> None:
    shop = Shop()
    async with remote(shop, log_url):
        with pytest.raises(UnknownRun):
            await shop.pay.handle("nothing").result()
        handle = await shop.late.enqueue()
        with pytest.raises(TimeoutError):
            await handle.result(timeout="50ms")


async def test_arguments_are_checked_before_they_are_sent(log_url: str) -> None:
    shop = Shop()
    async with remote(shop, log_url):
        with pytest.raises(PayloadError, match="argument 'order' of pay"):
            await shop.pay.enqueue("o1")
        with pytest.raises(PayloadError, match="has no parameter 'tmes'; did you mean 'times'"):
            await shop.pay.enqueue(Order("o1"), tmes=2)


async def from_a_thread(shop: Shop, log: str, work: Callable[[SyncClient], R]) -> R:
    """Do it with a SyncClient in another thread, as a worker of Django would."""
    engine = Engine(shop.app, log=log)

    def threaded(url: str) -> R:
        with SyncClient(shop.app, log=url) as client:
            return work(client)

    async with engine, served(engine.asgi()) as url:
        return await asyncio.to_thread(threaded, url)


async def test_a_sync_client_sends_events_and_finds_their_runs(log_url: str) -> None:
    shop = Shop()

    def work(client: SyncClient) -> None:
        event_id = client.send(PLACED(Order("o1")))
        # A shared log takes it in a moment later.
        while not (found := client.runs(shop.fulfil, event_id=event_id)):
            time.sleep(0.01)
        assert [handle.result() for handle in found] == ["shop o1"]
        assert client.send("other", {"n": 1}, id="mine") == "mine"
        assert client.send_many([PLACED(Order("o2"), id="a"), PLACED(Order("o3"), id="b")]) == ["a", "b"]

    await from_a_thread(shop, log_url, work)


async def test_a_sync_client_calls_and_enqueues(log_url: str) -> None:
    shop = Shop()

    def work(client: SyncClient) -> None:
        assert client.call(shop.pay, Order("o1"), times=2) == Order("o1", 200)
        handle = client.enqueue(shop.nap.options(metadata={"who": "ada"}, delay="10ms"))
        assert handle.result(timeout="20s") == "ada"
        assert handle.status() == "completed"
        assert client.handle(shop.nap, handle.id).result() == "ada"

    await from_a_thread(shop, log_url, work)


async def test_a_sync_client_cancels_and_runs_again(log_url: str) -> None:
    shop = Shop()

    def work(client: SyncClient) -> None:
        handle = client.enqueue(shop.late)
        handle.cancel(reason="enough")
        assert handle.status() == "cancelled"
        with pytest.raises(RunFailed, match="enough"):
            handle.result()
        assert client.enqueue(shop.pay, Order("o1")).rerun().result() == Order("o1", 100)

    await from_a_thread(shop, log_url, work)


async def test_a_sync_client_gets_failures_as_they_are(log_url: str) -> None:
    shop = Shop()

    def work(client: SyncClient) -> None:
        with pytest.raises(SoldOut, match="cups"):
            client.call(shop.fail, "sold out")
        with pytest.raises(RunFailed, match="down") as caught:
            client.call(shop.broken)
        assert caught.value.caused_by(OSError)
        with pytest.raises(UnknownRun):
            client.handle(shop.pay, "nothing").result()
        with pytest.raises(TimeoutError):
            client.enqueue(shop.late).result(timeout="50ms")
        with pytest.raises(PayloadError, match="argument 'order' of pay"):
            client.enqueue(shop.pay, "o1")

    await from_a_thread(shop, log_url, work)


class Reversing:
    def encode(self, payload: bytes, /) -> bytes:
        return bytes(255 - byte for byte in payload)

    def decode(self, payload: bytes, /) -> bytes:
        return bytes(255 - byte for byte in payload)


async def test_a_codec_is_the_engines_business(log_url: str) -> None:
    """A client sends and gets plain JSON; on the log it is coded."""
    shop = Shop(codec=Reversing())
    async with remote(shop, log_url) as (_, engine):
        assert await shop.pay.call(Order("secret")) == Order("secret", 100)
        log = engine.nodes[0].log
        stored = [raw for p in range(log.partitions) for batch in await log.fetch(p, 0) for raw in batch.values]
        assert not any(b"secret" in raw for raw in stored)
