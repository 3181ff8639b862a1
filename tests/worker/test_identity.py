"""An op's identity is (branch, name, n-th use), taken when the op is called; branches are numbered when made."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from perdure import App, Context
from perdure.testing import TestEngine
from tests.worker.helpers import both_ways, finished, ops


def made() -> tuple[App, Callable[[], Coroutine[object, object, int]]]:
    """An app with a step that counts."""
    app = App("shop")
    numbers = iter(range(1, 100))

    @app.step
    async def count() -> int:
        return next(numbers)

    return app, count


@both_ways
async def test_each_use_of_a_step_has_its_own_result(evict: bool) -> None:
    app, count = made()

    @app.background
    async def flow() -> list[int]:
        return [await count(), await count(), await count()]

    assert (await finished(app, flow, evict=evict)).output == [1, 2, 3]


async def test_identities_say_branch_name_and_use() -> None:
    app, count = made()

    @app.background
    async def flow() -> None:
        await count()
        await count()
        await asyncio.gather(count(), count())

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert await ops(engine, engine.run(flow)) == ["0/count#1", "0/count#2", "0/count#3", "0/count#4"]


@both_ways
async def test_the_call_counts_not_the_await(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def say(text: str) -> str:
        return text

    @app.background
    async def flow() -> list[str]:
        first, second = say("first"), say("second")
        return [await second, await first]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == ["second", "first"]
        assert await ops(engine, engine.run(flow)) == ["0/say#2", "0/say#1"]


@both_ways
async def test_branches_are_numbered_when_a_task_is_made(evict: bool) -> None:
    """Not at its first op: the second task gets there first."""
    app = App("shop")

    @app.step
    async def say(text: str) -> str:
        return text

    @app.background
    async def flow() -> list[str]:
        async def late() -> str:
            for _ in range(5):
                await asyncio.sleep(0)
            return await say("late")

        async def early() -> str:
            return await say("early")

        return list(await asyncio.gather(late(), early()))

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == ["late", "early"]
        assert await ops(engine, engine.run(flow)) == ["0.2/say#1", "0.1/say#1"]


async def test_tasks_of_tasks_are_branches_of_branches() -> None:
    app, count = made()

    @app.background
    async def flow() -> None:
        async def inner() -> int:
            return await count()

        async def outer() -> None:
            await asyncio.create_task(inner())
            await asyncio.create_task(inner())

        await asyncio.create_task(outer())

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert await ops(engine, engine.run(flow)) == ["0.1.1/count#1", "0.1.2/count#1"]


@both_ways
async def test_a_coroutine_made_in_one_branch_and_awaited_in_another_is_the_first_ones_op(evict: bool) -> None:
    app, count = made()

    @app.background
    async def flow() -> int:
        async def awaiting(coroutine: Coroutine[object, object, int]) -> int:
            return await coroutine

        return await asyncio.create_task(awaiting(count()))

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert await ops(engine, engine.run(flow)) == ["0/count#1"]


@both_ways
async def test_tasks_in_step_bodies_are_no_branches(evict: bool) -> None:
    app, count = made()

    @app.step
    async def many() -> int:
        return sum(await asyncio.gather(*(asyncio.create_task(asyncio.sleep(0, n)) for n in range(4))))

    @app.background
    async def flow() -> int:
        async def branch() -> int:
            return await count()

        found = await many()
        return found + await asyncio.create_task(branch())

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 7
        assert await ops(engine, engine.run(flow)) == ["0/many#1", "0.1/count#1"]


@both_ways
async def test_a_step_called_in_a_step_is_the_plain_function(evict: bool) -> None:
    app, count = made()

    @app.step
    async def twice() -> int:
        return await count() + await count()

    @app.background
    async def flow() -> int:
        return await twice()

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 3
        assert await ops(engine, engine.run(flow)) == ["0/twice#1"]


async def test_a_step_called_in_a_task_of_a_step_is_the_plain_function() -> None:
    app, count = made()

    @app.step
    async def both() -> int:
        return sum(await asyncio.gather(count(), count()))

    @app.background
    async def flow() -> int:
        return await both()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert await ops(engine, engine.run(flow)) == ["0/both#1"]


async def test_a_step_outside_runs_is_the_plain_function() -> None:
    app = App("shop")

    @app.step
    async def double(n: int) -> int:
        return 2 * n

    @app.step
    def triple(n: int) -> int:
        return 3 * n

    assert (await double(2), await triple(2)) == (4, 6)


async def test_the_task_factory_in_place_is_asked_still() -> None:
    app, count = made()
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        asked.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)
    try:

        @app.background
        async def flow() -> int:
            async def branch() -> int:
                return await count()

            return await asyncio.create_task(branch())

        assert (await finished(app, flow)).output == 1
        assert any("branch" in name for name in asked)
        assert loop.get_task_factory() is factory
    finally:
        loop.set_task_factory(None)


async def test_an_engine_that_closes_leaves_the_branches_of_another_alone() -> None:
    app, count = made()
    before = asyncio.get_running_loop().get_task_factory()

    async def twice() -> list[int]:
        return [await count(), await count()]

    @app.background
    async def flow() -> list[int]:
        first, second = asyncio.create_task(twice()), asyncio.create_task(twice())
        return [*await first, *await second]

    async with TestEngine(app) as engine:
        async with TestEngine(App("another")):
            pass
        await flow.enqueue()
        assert sorted(await ops(engine, engine.run(flow))) == [
            "0.1/count#1", "0.1/count#2", "0.2/count#1", "0.2/count#2",
        ]  # fmt: skip
    assert asyncio.get_running_loop().get_task_factory() is before


async def test_tasks_outside_runs_are_left_alone() -> None:
    app, _ = made()

    async def elsewhere() -> str:
        return "done"

    async with TestEngine(app):
        coroutine = elsewhere()
        task = asyncio.create_task(coroutine)
        assert task.get_coro() is coroutine
        assert await task == "done"


@both_ways
async def test_tasks_that_share_a_context_are_branches_of_their_own(evict: bool) -> None:
    app, count = made()

    @app.background
    async def flow() -> list[int]:
        async def branch() -> int:
            return await count()

        shared = contextvars.copy_context()
        tasks = [asyncio.get_running_loop().create_task(branch(), context=shared) for _ in range(2)]
        return [await task for task in tasks]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == [1, 2]
        assert await ops(engine, engine.run(flow)) == ["0.1/count#1", "0.2/count#1"]


async def test_context_variables_reach_the_tasks_of_a_run() -> None:
    app = App("shop")
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    @app.background
    async def flow() -> str:
        async def branch() -> str:
            return tenant.get()

        tenant.set("acme")
        return await asyncio.create_task(branch())

    assert (await finished(app, flow)).output == "acme"


@both_ways
async def test_inline_steps_are_ops_by_their_name(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[int]:
        return [await ctx.step("one", lambda: 1), await ctx.step("double", lambda n: 2 * n, 21)]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == [1, 42]
        assert await ops(engine, engine.run(flow)) == ["0/one#1", "0/double#1"]


@both_ways
async def test_an_inline_steps_identity_is_taken_when_it_is_called(evict: bool) -> None:
    app = App("shop")

    async def say(text: str) -> str:
        return text

    @app.background
    async def flow(ctx: Context) -> list[str]:
        first, second = ctx.step("say", say, "first"), ctx.step("say", say, "second")
        return [await second, await first]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == ["second", "first"]
        assert await ops(engine, engine.run(flow)) == ["0/say#2", "0/say#1"]


@both_ways
async def test_a_generator_that_is_closed_for_us_is_nobodys_branch(evict: bool) -> None:
    """The loop closes it in a task, whenever the collector finds it, and in the context of whoever runs just then."""
    app, count = made()

    async def numbers() -> AsyncGenerator[int]:
        try:
            for n in range(10):
                yield n
        finally:
            await asyncio.sleep(0)

    @app.background
    async def flow() -> int:
        async def branch() -> int:
            return await count()

        async for n in numbers():
            if n == 1:
                break
        await count()
        return await asyncio.create_task(branch())

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert await ops(engine, engine.run(flow)) == ["0/count#1", "0.1/count#1"]


@both_ways
async def test_ops_in_an_async_generator(evict: bool) -> None:
    app, count = made()

    @app.background
    async def flow() -> list[int]:
        async def numbers() -> AsyncGenerator[int]:
            while True:
                yield await count()

        found: list[int] = []
        async for n in numbers():
            found.append(n)
            if n == 3:
                return found
        return []

    assert (await finished(app, flow, evict=evict)).output == [1, 2, 3]
