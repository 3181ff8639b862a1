"""What asyncio leaves to addresses, or to the version of Python, is the same live and replayed in the code of runs."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from perdure import App, Context
from perdure.testing import TestEngine
from perdure.worker.asyncio_in_runs import asyncios_as_completed
from tests.worker.helpers import both_ways, failure, finished, ops

MANY = 60
"""So many addresses are never in the order of the list by chance."""


def squares() -> tuple[App, Callable[[int], Coroutine[Any, Any, int]]]:
    app = App("shop")

    @app.step
    async def square(n: int) -> int:
        return n * n

    return app, square


@pytest.fixture
def shuffled() -> Iterator[Callable[[], None]]:
    """Makes the addresses of what is allocated next others than they were."""
    kept: list[object] = []

    def shuffle() -> None:
        async def nothing() -> None:
            await asyncio.sleep(0)

        made = [nothing() for _ in range(3 * MANY)]
        for one in made:
            one.close()
        kept.extend(made[:: 2 + len(kept) % 5])

    yield shuffle
    kept.clear()


@pytest.mark.parametrize("given", ["list", "iterator"])
@both_ways
async def test_as_completed_begins_coroutines_in_the_order_given(
    evict: bool, given: str, shuffled: Callable[[], None]
) -> None:
    app, square = squares()

    @app.background
    async def flow() -> list[int]:
        async def both(n: int) -> int:
            return await square(n) + await square(n + 1)

        shuffled()
        each = map(both, range(MANY))
        return [await one for one in asyncio.as_completed(list(each) if given == "list" else each)]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.finish()
        run = engine.run(flow)
        assert (run.status, run.output) == ("completed", [n * n + (n + 1) * (n + 1) for n in range(MANY)])
        assert (await ops(engine, run))[:MANY] == [f"0.{n + 1}/square#1" for n in range(MANY)]


@both_ways
async def test_a_coroutine_that_is_given_twice_begins_once(evict: bool) -> None:
    app, square = squares()

    @app.background
    async def flow() -> list[int]:
        one = square(2)
        return [await told for told in asyncio.as_completed([one, square(3), one])]

    assert (await finished(app, flow, evict=evict)).output == [4, 9]


@both_ways
async def test_as_completed_of_tasks_that_are_done_has_one_order(evict: bool, shuffled: Callable[[], None]) -> None:
    app, square = squares()

    @app.background
    async def flow() -> list[int]:
        shuffled()
        tasks = [asyncio.create_task(asyncio.sleep(0, n)) for n in range(MANY)]
        await asyncio.gather(*tasks)
        return [await square(await one) for one in asyncio.as_completed(tasks)]

    assert sorted((await finished(app, flow, evict=evict)).output) == [n * n for n in range(MANY)]


@both_ways
async def test_a_set_of_tasks_has_one_order(evict: bool, shuffled: Callable[[], None]) -> None:
    """As most code goes through what `asyncio.wait` gives."""
    app, square = squares()

    @app.background
    async def flow() -> list[int]:
        shuffled()
        done, _ = await asyncio.wait([asyncio.create_task(square(n)) for n in range(MANY)])
        return [await square(task.result()) for task in done]

    assert sorted((await finished(app, flow, evict=evict)).output) == [n**4 for n in range(MANY)]


@both_ways
async def test_a_groups_tasks_are_cancelled_in_one_order(evict: bool, shuffled: Callable[[], None]) -> None:
    app, square = squares()

    @app.background(waits=["never"])
    async def flow(ctx: Context) -> list[int]:
        ended: list[int] = []

        async def until_cancelled(n: int) -> None:
            try:
                await ctx.wait_for_event("never")
            finally:
                ended.append(n)

        shuffled()
        try:
            async with asyncio.TaskGroup() as group:
                for n in range(MANY):
                    group.create_task(until_cancelled(n))
                await ctx.sleep("1h")
                raise ValueError
        except* ValueError:
            pass
        return [await square(n) for n in ended]

    assert sorted((await finished(app, flow, evict=evict)).output) == [n * n for n in range(MANY)]


async def test_asyncios_own_as_completed_over_coroutines_is_refused() -> None:
    """Whoever has it from before the first engine: the order of addresses must not come into a run by chance."""
    app, square = squares()

    @app.background
    async def flow() -> list[int]:
        return [await one for one in asyncios_as_completed([square(3)])]

    @app.background
    async def of_tasks() -> list[int]:
        return [await one for one in asyncios_as_completed([asyncio.create_task(square(3))])]

    assert "Call it as asyncio.as_completed(…), or give it tasks" in failure(await finished(app, flow))
    assert (await finished(app, of_tasks)).output == [9]


async def test_outside_of_runs_and_in_steps_as_completed_is_asyncios_own() -> None:
    app = App("shop")

    async def number(n: int) -> int:
        return n

    @app.step
    async def inside() -> list[int]:
        return sorted([await one for one in asyncio.as_completed([number(1), number(2)])])

    @app.background
    async def flow() -> list[int]:
        return await inside()

    assert (await finished(app, flow)).output == [1, 2]
    assert sorted([await one for one in asyncio.as_completed([number(1), number(2)])]) == [1, 2]
    with pytest.raises(TypeError):
        next(iter(asyncio.as_completed(asyncio.get_running_loop().create_future())))


async def _fails() -> None:
    raise ValueError


@both_ways
async def test_a_group_that_failed_does_not_keep_a_later_timeout_from_being_one(evict: bool) -> None:
    """Seed 10026: before Python 3.13 the group left a request to cancel behind."""
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_fails())
                        group.create_task(ctx.sleep("1m"))
                except* ValueError:
                    pass
                await ctx.sleep("2h")
        except TimeoutError:
            return f"late at {ctx.now():%H:%M}"
        return "in time"

    assert (await finished(app, flow, evict=evict)).output == "late at 01:00"


@both_ways
async def test_a_group_that_fails_while_a_timeout_ends_its_block_leaves_that_a_timeout(evict: bool) -> None:
    """Seed 1565: what cleans up has a group of its own."""
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                try:
                    await ctx.sleep("2h")
                finally:
                    try:
                        async with asyncio.TaskGroup() as group:
                            group.create_task(_fails())
                            group.create_task(ctx.sleep("1m"))
                    except* ValueError:
                        pass
        except TimeoutError:
            return f"late at {ctx.now():%H:%M}"
        return "in time"

    assert (await finished(app, flow, evict=evict)).output == "late at 01:00"


@both_ways
async def test_a_timeout_that_comes_while_a_group_ends_its_tasks_is_not_lost(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        async def cleans_up() -> None:
            try:
                await ctx.sleep("9h")
            finally:
                await ctx.sleep("2h")

        try:
            async with ctx.timeout("1h"):
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(cleans_up())
                        await ctx.sleep("1m")
                        raise ValueError
                except* ValueError:
                    pass
                await ctx.sleep("9h")
        except TimeoutError:
            return f"late at {ctx.now():%H:%M}"
        return "in time"

    assert (await finished(app, flow, evict=evict)).output == "late at 02:01"


async def test_outside_of_runs_a_group_is_asyncios_own() -> None:
    async with TestEngine(App("shop")):
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(_fails())
        while task.cancelling():
            task.uncancel()
