"""aiokafka swallows cancels, and may wait for ever for brokers that are away: nothing of ours does so with it."""

import asyncio

import pytest

from perdure.log.kafka import client
from perdure.log.kafka.client import close, end


class Stubborn:
    """Goes on after so many cancels."""

    def __init__(self, cancels: int) -> None:
        self.left = cancels
        self.begun = asyncio.Event()

    async def run(self) -> None:
        while True:
            self.begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.left:
                    raise
                self.left -= 1


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CANCEL_SECONDS", 0.01)
    monkeypatch.setattr(client, "STOP_SECONDS", 0.01)


@pytest.mark.parametrize("swallowed", [0, 1, 3])
async def test_a_task_is_cancelled_until_it_has_ended(swallowed: int) -> None:
    stubborn = Stubborn(swallowed)
    task = asyncio.ensure_future(stubborn.run())
    await stubborn.begun.wait()
    await end(task)
    assert task.cancelled()
    assert stubborn.left == 0


async def test_who_was_cancelled_by_others_is_given_time() -> None:
    async def says_goodbye() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            said.append("goodbye")

    said: list[str] = []
    task = asyncio.ensure_future(says_goodbye())
    await asyncio.sleep(0)
    task.cancel()
    await end(task)
    assert said == ["goodbye"]


async def test_the_error_of_a_task_that_ends_is_raised() -> None:
    async def breaks() -> None:
        raise ValueError("broken")

    task = asyncio.ensure_future(breaks())
    await asyncio.wait({task})
    with pytest.raises(ValueError, match="broken"):
        await end(task)


async def test_what_does_not_close_is_left() -> None:
    stubborn = Stubborn(1)
    await close(stubborn.run())
    await asyncio.sleep(0)
    assert stubborn.left == 0, "it was told to end"
    (left,) = asyncio.all_tasks() - {asyncio.current_task()}
    await end(left)


async def test_who_is_cancelled_while_it_closes_gives_it_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def closes() -> None:
        closing.set()
        await told.wait()
        closed.append(True)

    monkeypatch.setattr(client, "STOP_SECONDS", 60)
    closing, told, closed = asyncio.Event(), asyncio.Event(), list[bool]()
    task = asyncio.ensure_future(close(closes()))
    await closing.wait()
    task.cancel()
    await asyncio.sleep(0)
    told.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed


async def test_an_error_of_closing_is_nobodys_concern() -> None:
    async def breaks() -> None:
        raise OSError("no broker")

    await close(breaks())
