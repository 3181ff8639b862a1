"""What fails, and what a handler learns of it."""

from datetime import timedelta
from typing import Any, Literal, assert_type

from perdure import (
    App,
    Context,
    Ended,
    Event,
    Failed,
    NonRetriable,
    PerdureError,
    RetryAfter,
    RunCancelled,
    RunFailed,
    StepError,
)

app = App("failures")


class CardDeclined(NonRetriable): ...


@app.step(retries=0)
async def charge(cents: int) -> str:
    if cents > 100:
        raise CardDeclined("too much")
    raise RetryAfter(timedelta(seconds=3), "busy")


@app.background
async def other(cents: int) -> int:
    return cents


async def undo(ctx: Context, ended: Ended) -> None:
    assert_type(ended.status, Literal["failed", "cancelled"])
    assert_type(ended.result(charge), str | None)
    assert_type(ended.result(other), int | None)
    assert_type(ended.event, Event[Any] | None)
    if ended.error is not None and ended.error.caused_by(CardDeclined):
        ctx.logger.warning("%s", ended.error.message)


@app.function(on="pay", on_failure=undo)
async def pay(ctx: Context, event: Event) -> str:
    try:
        return await charge(3)
    except CardDeclined:
        return "declined"
    except StepError as error:
        assert_type(error.step, str)
        assert_type(error.attempts, int)
        failed: Failed = error
        ctx.logger.info(failed.error_type)
    try:
        await other.call(3)
    except RunFailed as error:
        assert_type(error.run_id, str)
        if error.caused_by(TimeoutError):
            raise PerdureError("too late") from error
    except RunCancelled:
        raise
    return "failed"
