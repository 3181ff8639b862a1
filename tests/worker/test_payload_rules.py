"""What a function gets live is what it would get on replay: results go through JSON, both times."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Struct
from pydantic import BaseModel

from perdure import App, Codec, Context, Event, EventType, PayloadError
from perdure.testing import TestEngine
from tests.worker.helpers import both_ways, failure, finished


class Row(Struct):
    name: str
    price: Decimal


@dataclass
class Point:
    x: int
    y: int


class Model(BaseModel):
    at: datetime


class Cart(Struct):
    cart_id: str
    total: int


ADDED = EventType("cart/added", Cart)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@both_ways
@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Row("cup", Decimal("1.50")), Row),
        (Point(1, 2), Point),
        (Model(at=NOON), Model),
        ((1, "a"), tuple[int, str]),
        (Decimal("0.1"), Decimal),
        ({1, 2}, set[int]),
        ([Row("a", Decimal(1))], list[Row]),
        (b"bytes", bytes),
        ({"a": [1, 2.5, None, True]}, Any),
    ],
    ids=["struct", "dataclass", "pydantic", "tuple", "decimal", "set", "list of structs", "bytes", "plain"],
)
async def test_a_typed_result_comes_back_as_it_was(value: Any, annotation: Any, evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> bool:
        found = await ctx.step("make", lambda: value, returns=annotation)
        await ctx.sleep("1h")
        return found == value and type(found) is type(value)

    assert (await finished(app, flow, evict=evict)).output is True


@pytest.mark.parametrize("value", [(1, 2), Decimal("1.5"), float("nan"), {1, 2}, NOON, Point(1, 2), {1: "a"}])
async def test_a_result_that_would_come_back_different_is_an_error(value: Any) -> None:
    app = App("shop")

    @app.step
    async def make():
        return value

    @app.background
    async def flow() -> None:
        await make()

    run = await finished(app, flow)
    assert "annotate the return type" in failure(run)
    assert run.steps[0].attempts == 1  # to try again would change nothing


async def test_a_result_that_cannot_be_written_is_an_error() -> None:
    app = App("shop")

    @app.step
    async def make() -> object:
        return object()

    @app.background
    async def flow() -> None:
        await make()

    assert "cannot be written as JSON" in failure(await finished(app, flow))


async def test_a_result_of_another_type_than_annotated_is_an_error() -> None:
    app = App("shop")

    @app.step
    async def make() -> int:
        return "three"  # type: ignore[return-value]

    @app.background
    async def flow() -> None:
        await make()

    assert "does not fit the return type, int" in failure(await finished(app, flow))


async def test_the_functions_own_result_is_held_to_the_same() -> None:
    app = App("shop")

    @app.background
    async def flow():
        return (1, 2)

    assert "the result of 'flow' would come back different" in failure(await finished(app, flow))


async def test_a_result_nested_too_deep_is_an_error() -> None:
    app = App("shop")
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]

    @app.step
    async def make() -> list[Any]:
        return deep

    @app.background
    async def flow() -> None:
        await make()

    assert "nested deeper than 64" in failure(await finished(app, flow))


@both_ways
async def test_an_inline_steps_result_is_typed_by_its_function(evict: bool) -> None:
    app = App("shop")

    def corner() -> Point:
        return Point(1, 2)

    @app.background
    async def flow(ctx: Context) -> int:
        point = await ctx.step("corner", corner)
        return point.x + point.y

    assert (await finished(app, flow, evict=evict)).output == 3


@both_ways
async def test_an_inline_steps_result_is_typed_by_returns(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> int:
        point = await ctx.step("corner", lambda: Point(1, 2), returns=Point)
        return point.x + point.y

    assert (await finished(app, flow, evict=evict)).output == 3


@both_ways
async def test_a_large_result_comes_back_whole(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def read() -> str:
        return "x" * 300_000

    @app.background
    async def flow(ctx: Context) -> int:
        text = await read()
        await ctx.sleep("1h")
        return len(text)

    assert (await finished(app, flow, evict=evict)).output == 300_000


async def test_a_function_gives_its_result_in_its_type() -> None:
    app = App("shop")

    @app.background
    async def corner() -> Point:
        return Point(1, 2)

    async with TestEngine(app):
        assert await (await corner.enqueue()).result() == Point(1, 2)


async def test_arguments_arrive_in_their_types() -> None:
    app = App("shop")

    @app.background
    async def flow(row: Row, at: datetime, *rest: Point, scale: Decimal = Decimal(1)) -> str:
        return f"{row.price * scale} {at.year} {rest[0].x}"

    assert (await finished(app, flow, Row("cup", Decimal("1.5")), NOON, Point(7, 8))).output == "1.5 2026 7"


async def test_arguments_that_do_not_fit_are_refused_where_they_are_given() -> None:
    app = App("shop")

    @app.background
    async def flow(n: int) -> None:
        pass

    async with TestEngine(app):
        with pytest.raises(PayloadError, match="argument 'n' of flow"):
            await flow.enqueue("three")  # type: ignore[arg-type]


async def test_event_data_arrives_in_its_type() -> None:
    app = App("shop")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> int:
        return event.data.total

    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1", 42)))
        assert engine.run(flow).output == 42


async def test_event_data_that_does_not_fit_fails_the_run_without_retries() -> None:
    app = App("shop")
    began = 0

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> int:
        nonlocal began
        began += 1
        return event.data.total

    async with TestEngine(app) as engine:
        await engine.send("cart/added", {"cart_id": "c1", "total": "many"})
        run = engine.run(flow)
        assert "the event does not fit 'flow'" in failure(run)
        assert "$.total" in failure(run)
        assert began == 0


async def test_a_union_of_event_types_gives_each_its_own() -> None:
    class Removed(Struct):
        reason: str

    removed = EventType("cart/removed", Removed)
    app = App("shop")

    @app.function(on=ADDED | removed)
    async def flow(ctx: Context, event: Event[Cart | Removed]) -> str:
        return type(event.data).__name__

    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1", 1)))
        await engine.send(removed(Removed("late")))
        assert [run.output for run in engine.all_runs(flow)] == ["Cart", "Removed"]


async def test_the_user_of_an_event_is_empty_if_it_is_absent() -> None:
    app = App("shop")

    @app.function(on="cart/added")
    async def flow(ctx: Context, event: Event) -> dict[str, Any]:
        return event.user

    async with TestEngine(app) as engine:
        await engine.send("cart/added", {})
        assert engine.run(flow).output == {}


class Reversing:
    """Not JSON any more, and not to be read by people: what encryption does."""

    def encode(self, payload: bytes, /) -> bytes:
        return bytes(255 - byte for byte in payload)

    def decode(self, payload: bytes, /) -> bytes:
        return bytes(255 - byte for byte in payload)


def journal(engine: TestEngine) -> bytes:
    """Everything that stands in the log."""
    log = engine.log
    batches = [batch for p in range(log.partitions) for batch in log.read(p, 0)]
    return b"\n".join(value for batch in batches for value in batch.values)


def coded() -> App:
    codec: Codec = Reversing()
    return App("shop", codec=codec)


@both_ways
async def test_a_codec_makes_payloads_unreadable(evict: bool) -> None:
    app = coded()

    @app.step
    async def look(secret: str) -> str:
        return secret + " inside"

    @app.background
    async def child(secret: str) -> str:
        return await look(secret)

    @app.background
    async def flow(ctx: Context, secret: str) -> str:
        first = await child.call(secret)
        handle = await child.enqueue(secret + " again")
        await ctx.sleep("1h")
        return f"{first}, {await handle.result()}"

    async with TestEngine(app, evict=evict) as engine:
        handle = await flow.enqueue("hidden")
        await engine.finish()
        assert engine.run(flow).output == "hidden inside, hidden again inside"
        assert await handle.result() == "hidden inside, hidden again inside"
        assert b"hidden" not in journal(engine)
        assert b"step.completed" in journal(engine)


async def test_a_coded_run_can_be_run_again() -> None:
    app = coded()

    @app.background
    async def flow(secret: str) -> str:
        return secret

    async with TestEngine(app) as engine:
        again = await (await flow.enqueue("hidden")).rerun()
        await engine.finish()
        assert await again.result() == "hidden"
        assert b"hidden" not in journal(engine)


async def test_a_coded_run_survives_a_crash() -> None:
    app = coded()

    @app.step
    async def make() -> str:
        return "hidden" * 2_000

    @app.background
    async def flow(ctx: Context) -> int:
        text = await make()
        await ctx.sleep("1h")
        return len(text)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.crash()
        await engine.finish()
        assert engine.run(flow).output == 12_000


async def test_a_secret_input_is_not_recorded() -> None:
    app = App("shop")

    @app.step(record_input=False)
    async def login(password: str) -> int:
        return len(password)

    @app.step
    async def shown(name: str) -> int:
        return len(name)

    @app.background
    async def flow() -> int:
        return await login("hunter2") + await shown("ada")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 10
        assert b"hunter2" not in journal(engine)
        assert b'"ada"' in journal(engine)


async def test_a_long_input_is_recorded_as_a_digest_alone() -> None:
    app = App("shop")

    @app.step
    async def count(text: str) -> int:
        return len(text)

    @app.background
    async def flow() -> int:
        return await count("long" * 2_000)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 8_000
        assert b"longlong" not in journal(engine)
        assert b'"digest":"x3:' in journal(engine)
