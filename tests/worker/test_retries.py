"""A failed step is retried alone; used up, it is a `StepError` in the function; uncaught, the run fails."""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest
from msgspec import Raw
from msgspec.json import encode

from perdure import App, Context, Event, NonRetriable, Retry, RetryAfter, StepError
from perdure.testing import TestEngine
from perdure.worker.payloads import digest
from perdure_schemas.payload import Payload
from perdure_schemas.records import StepCompleted, V
from tests.worker.helpers import both_ways, failure, finished


class OutOfStock(NonRetriable):
    """Crosses the log as itself."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(item, left)
        self.item = item
        self.left = left


class Declined(Exception):
    pass


class Temporary(Declined):
    pass


@both_ways
async def test_a_failed_step_is_retried_alone(evict: bool) -> None:
    app = App("shop")
    calls: list[str] = []

    @app.step
    async def first() -> None:
        calls.append("first")

    @app.step
    async def flaky() -> str:
        calls.append("flaky")
        if calls.count("flaky") < 3:
            raise OSError("down")
        return "up"

    @app.background
    async def flow() -> str:
        await first()
        return await flaky()

    run = await finished(app, flow, evict=evict)
    assert run.output == "up"
    assert calls == ["first", "flaky", "flaky", "flaky"]
    assert [step.attempts for step in run.steps] == [1, 3]


async def test_five_attempts_unless_told_otherwise() -> None:
    app = App("shop")
    attempts = 0

    @app.step
    async def broken() -> None:
        nonlocal attempts
        attempts += 1
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await broken()

    assert (await finished(app, flow)).status == "failed"
    assert attempts == 5


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3)])
async def test_retries_are_further_attempts(retries: int, attempts: int) -> None:
    app = App("shop")
    made = 0

    @app.step(retries=retries)
    async def broken() -> None:
        nonlocal made
        made += 1
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await broken()

    await finished(app, flow)
    assert made == attempts


async def test_attempts_back_off_with_jitter() -> None:
    app = App("shop")
    at: list[float] = []

    @app.step(retries=Retry(limit=4, first="10s", factor=3, longest="1m"))
    async def broken() -> None:
        at.append(engine.now.timestamp())
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await broken()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
    gaps = [later - earlier for earlier, later in pairwise(at)]
    for gap, base in zip(gaps, [10, 30, 60, 60], strict=True):
        assert 0.9 * base <= gap <= 1.1 * base + 0.01
    assert gaps[2] != gaps[3]


async def test_retry_after_says_when() -> None:
    app = App("shop")
    at: list[float] = []

    @app.step
    async def limited() -> str:
        at.append(engine.now.timestamp())
        if len(at) == 1:
            raise RetryAfter("90s")
        if len(at) == 2:
            raise RetryAfter(engine.now + timedelta(hours=2))
        return "ok"

    @app.background
    async def flow() -> str:
        return await limited()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "ok"
    assert [round(later - at[0]) for later in at] == [0, 90, 90 + 7200]


async def test_retry_after_counts_as_an_attempt() -> None:
    app = App("shop")

    @app.step(retries=2)
    async def limited() -> None:
        raise RetryAfter("1s", "busy")

    @app.background
    async def flow() -> None:
        await limited()

    run = await finished(app, flow)
    assert "busy" in failure(run)
    assert run.steps[0].attempts == 3


async def test_non_retriable_is_not_retried() -> None:
    app = App("shop")

    @app.step
    async def broken() -> None:
        raise NonRetriable("never")

    @app.background
    async def flow() -> None:
        await broken()

    run = await finished(app, flow)
    assert "never" in failure(run)
    assert run.steps[0].attempts == 1


@both_ways
async def test_non_retriable_subclasses_come_out_as_themselves(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def take(item: str) -> None:
        raise OutOfStock(item, 0)

    @app.background
    async def flow() -> str:
        try:
            await take("cup")
        except OutOfStock as error:
            return f"{error.item} {error.left}"
        return "taken"

    assert (await finished(app, flow, evict=evict)).output == "cup 0"


@pytest.mark.parametrize(("error", "attempts"), [(Declined, 1), (Temporary, 1), (OSError, 3)])
async def test_never_on_names_what_is_final(error: type[Exception], attempts: int) -> None:
    app = App("shop")
    made = 0

    @app.step(retries=Retry(limit=2, never_on=(Declined,)))
    async def broken() -> None:
        nonlocal made
        made += 1
        raise error("no")

    @app.background
    async def flow() -> None:
        await broken()

    await finished(app, flow)
    assert made == attempts


@both_ways
async def test_a_caught_step_error_says_what_went_wrong(evict: bool) -> None:
    app = App("shop")

    @app.step(retries=1)
    async def broken() -> None:
        raise Temporary("card declined")

    @app.background
    async def flow() -> list[str]:
        try:
            await broken()
        except StepError as error:
            kind = error.error_type.rpartition(".")[2]
            caught = [str(error.caused_by(cls)) for cls in (Temporary, Declined, OSError)]
            return [error.step, kind, error.message, str(error.attempts), *caught, str("broken" in error.traceback)]
        return []

    run = await finished(app, flow, evict=evict)
    assert run.output == ["broken", "Temporary", "card declined", "2", "True", "True", "False", "True"]


async def test_a_caught_failure_does_not_fail_the_run() -> None:
    app = App("shop")
    undone: list[int] = []

    @app.step(retries=0)
    async def broken() -> None:
        raise OSError("down")

    @app.step
    async def undo() -> None:
        undone.append(1)

    @app.background
    async def flow() -> str:
        try:
            await broken()
        except StepError:
            await undo()
            return "compensated"
        return "done"

    assert (await finished(app, flow)).output == "compensated"
    assert undone == [1]


async def test_an_uncaught_one_fails_the_run_without_a_retry() -> None:
    """Its attempts are used up: the function is not begun again."""
    app = App("shop")
    began = 0

    @app.step(retries=0)
    async def broken() -> None:
        raise Declined("no money")

    @app.background
    async def flow() -> None:
        nonlocal began
        began += 1
        await broken()

    run = await finished(app, flow)
    assert run.status == "failed"
    assert run.error is not None
    assert (run.error.caused_by(Declined), run.error.message, began) == (True, "no money", 1)


async def test_a_function_that_raises_is_retried_whole() -> None:
    app = App("shop")
    began = 0
    steps = 0

    @app.step
    async def work() -> None:
        nonlocal steps
        steps += 1

    @app.background(retries=2)
    async def flow() -> None:
        nonlocal began
        began += 1
        await work()
        raise OSError("outside of steps")

    run = await finished(app, flow)
    assert "outside of steps" in failure(run)
    assert (began, steps) == (3, 1)


@both_ways
async def test_a_retried_function_may_come_through(evict: bool) -> None:
    app = App("shop")
    began = 0

    @app.step
    async def work(n: int) -> int:
        return n

    @app.background
    async def flow(ctx: Context) -> int:
        nonlocal began
        found = await work(4)
        began += 1
        if began < 3:
            raise OSError("a bad moment")
        await ctx.sleep("1h")
        return found

    assert (await finished(app, flow, evict=evict)).output == 4


async def test_a_function_without_a_step_is_retried() -> None:
    app = App("shop")
    began = 0

    @app.function(on="order/placed")
    async def flow(ctx: Context, event: Event) -> int:
        nonlocal began
        began += 1
        if began < 3:
            raise OSError("down")
        return began

    async with TestEngine(app) as engine:
        await engine.send("order/placed", {})
        await engine.finish()
        assert engine.run(flow).output == 3


async def test_between_its_attempts_a_function_is_suspended() -> None:
    app = App("shop")

    @app.background(retries=Retry(limit=1, first="1h"))
    async def flow() -> None:
        raise OSError("down")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).status == "suspended"
        await engine.advance("2h")
        assert engine.run(flow).status == "failed"


async def test_the_traceback_is_the_users_own() -> None:
    app = App("shop")

    def deep() -> None:
        raise OSError("down")

    @app.step(retries=0)
    async def broken() -> None:
        deep()

    @app.background
    async def flow() -> None:
        await broken()

    run = await finished(app, flow)
    assert run.error is not None
    assert "in deep" in run.error.traceback
    assert "in broken" in run.error.traceback
    assert "in flow" in run.error.traceback
    assert "engine/perdure" not in run.error.traceback


async def test_the_number_of_the_attempt_is_known_inside() -> None:
    from perdure import current_step

    app = App("shop")
    seen: list[int] = []

    @app.step(retries=2)
    async def broken() -> None:
        seen.append(current_step().attempt)
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await broken()

    await finished(app, flow)
    assert seen == [1, 2, 3]


@both_ways
async def test_a_crash_between_attempts_keeps_their_count(evict: bool) -> None:
    app = App("shop")
    made = 0

    @app.step(retries=Retry(limit=3, first="1h"))
    async def broken() -> None:
        nonlocal made
        made += 1
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await broken()

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        for _ in range(5):
            await engine.crash()
            await engine.advance("90m")
        await engine.finish()
        assert engine.run(flow).status == "failed"
    assert made == 4


async def test_siblings_go_on_while_one_waits_for_its_next_attempt() -> None:
    app = App("shop")
    came: list[str] = []

    @app.step(retries=Retry(limit=1, first="1h"))
    async def flaky() -> None:
        came.append("flaky")
        if came.count("flaky") == 1:
            raise OSError("down")

    @app.step
    async def fine() -> None:
        came.append("fine")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.map(lambda step: step(), [flaky, fine])

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert came == ["flaky", "fine"]
        await engine.advance("2h")
        assert engine.run(flow).status == "completed"


async def test_an_inline_step_has_retries_of_its_own() -> None:
    app = App("shop")
    made = 0

    async def broken() -> None:
        nonlocal made
        made += 1
        raise OSError("down")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.step("broken", broken, retries=1)

    await finished(app, flow)
    assert made == 2


async def test_the_options_of_one_call() -> None:
    app = App("shop")
    made = 0

    @app.step
    async def broken() -> None:
        nonlocal made
        made += 1
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await broken.options(retries=0)()

    await finished(app, flow)
    assert made == 1


async def test_an_assertion_that_fails_is_a_failure_as_any() -> None:
    app = App("shop")

    @app.step(retries=0)
    async def check() -> None:
        raise AssertionError("wrong")

    @app.background
    async def flow() -> None:
        await check()

    assert "wrong" in failure(await finished(app, flow))


async def test_a_failed_step_that_raises_from_another_keeps_the_cause() -> None:
    app = App("shop")

    @app.step(retries=0)
    async def wrapped() -> None:
        try:
            raise KeyError("cart")
        except KeyError as error:
            raise Declined("no cart") from error

    @app.background
    async def flow() -> None:
        await wrapped()

    run = await finished(app, flow)
    assert run.error is not None
    assert "KeyError" in run.error.traceback


async def test_an_exception_group_of_a_step_is_a_failure() -> None:
    app = App("shop")

    @app.step(retries=0)
    async def both() -> None:
        raise ExceptionGroup("two", [OSError("a"), KeyError("b")])

    @app.background
    async def flow() -> None:
        await both()

    assert "two" in failure(await finished(app, flow))


async def test_a_cancelled_error_of_the_steps_own_making_is_a_failure() -> None:
    """Nobody cancelled the run: the step's own task group or library did it, and it is retried."""
    app = App("shop")
    made = 0

    @app.step
    async def odd() -> int:
        nonlocal made
        made += 1
        if made == 1:
            raise asyncio.CancelledError
        return made

    @app.background
    async def flow() -> int:
        return await odd()

    assert (await finished(app, flow)).output == 2


async def test_a_base_exception_of_the_users_own_fails_the_run() -> None:
    class Odd(BaseException):
        pass

    app = App("shop")

    @app.background(retries=0)
    async def flow() -> None:
        raise Odd

    assert "Odd is no Exception" in failure(await finished(app, flow))


async def test_a_base_exception_in_a_step_fails_it() -> None:
    class Odd(BaseException):
        pass

    app = App("shop")

    @app.step(retries=0)
    async def work() -> None:
        raise Odd("strange")

    @app.background
    async def flow() -> None:
        await work()

    assert "strange" in failure(await finished(app, flow))


async def test_an_error_whose_words_cannot_be_had_is_recorded_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise KeyError("no words")

    app = App("shop")

    @app.step(retries=0)
    async def work() -> None:
        raise Broken

    @app.background
    async def flow() -> None:
        await work()

    assert "its __str__ raised KeyError" in failure(await finished(app, flow))


async def test_an_error_that_is_no_utf_8_is_recorded_all_the_same() -> None:
    app = App("shop")

    @app.step(retries=0)
    async def work() -> None:
        raise OSError("no file \udcff")

    @app.background
    async def flow() -> None:
        await work()

    assert "no file \\udcff" in failure(await finished(app, flow))


async def test_used_up_steps_in_a_task_group_fail_the_run_at_once() -> None:
    app = App("shop")
    began = 0

    @app.step(retries=0)
    async def broken(n: int) -> None:
        raise Declined(f"no {n}")

    @app.background
    async def flow() -> None:
        nonlocal began
        began += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(broken(1))

    run = await finished(app, flow)
    assert run.error is not None
    assert (run.error.message, run.error.caused_by(Declined), began) == ("no 1", True, 1)


async def test_a_group_of_final_errors_in_a_step_is_final() -> None:
    app = App("shop")

    @app.step
    async def both() -> None:
        raise ExceptionGroup("two", [NonRetriable("a"), NonRetriable("b")])

    @app.background
    async def flow() -> None:
        await both()

    run = await finished(app, flow)
    assert (run.status, run.steps[0].attempts) == ("failed", 1)


async def test_retry_after_in_a_function_without_steps() -> None:
    app = App("shop")
    at: list[str] = []

    @app.background
    async def flow() -> str:
        at.append(f"{engine.now:%H:%M}")
        if len(at) == 1:
            raise RetryAfter("2h")
        return "ok"

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "ok"
    assert at == ["00:00", "02:00"]


@both_ways
async def test_an_attempt_whose_outcome_comes_with_the_word_to_go_on_does_not_begin(evict: bool) -> None:
    """I6: its retry is due, and the next record is another owner's outcome, read before the attempt has its turn."""
    app = App("shop")
    begun = 0

    @app.step
    async def work() -> str:
        nonlocal begun
        begun += 1
        raise RetryAfter("10s")

    @app.background
    async def flow() -> str:
        return await work()

    async with TestEngine(app, evict=evict) as engine:
        run = await flow.enqueue()
        append, (asked, _) = engine.log.append, digest("work", (), {})

        def and_decided(partition: int, value: bytes) -> int:
            ticket = append(partition, value)
            if b'"timer.fired"' in value:
                theirs = StepCompleted(run.id, "0/work#1", 1, asked, Payload(Raw(b'"theirs"')), v=V)
                append(partition, encode(theirs))
            return ticket

        engine.log.append = and_decided  # type: ignore[method-assign]
        await engine.advance("10s")
        assert engine.run(flow).output == "theirs"
        assert begun == 1
