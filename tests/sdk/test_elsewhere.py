"""Questions about runs that another pod owns, when nobody answers any more."""

import asyncio

import pytest

from perdure.errors import EngineClosed
from perdure.flow.routing import run_id
from perdure.log.memory import MemoryLog
from perdure.sdk.elsewhere import Elsewhere

RUN = run_id("shop", "pay", "e1")


async def test_who_waits_for_an_answer_while_the_engine_closes_is_told_so() -> None:
    log = MemoryLog()
    await log.open()
    elsewhere = Elsewhere(log, "shop")
    waiting = [asyncio.ensure_future(elsewhere.ask(RUN, "result")) for _ in range(2)]
    gave_up = asyncio.ensure_future(elsewhere.ask(RUN, "status"))
    await asyncio.sleep(0)
    gave_up.cancel()
    elsewhere.close()
    for one in waiting:
        with pytest.raises(EngineClosed, match=f"the engine closed while run '{RUN}' was awaited: the run goes on"):
            await one
    with pytest.raises(EngineClosed):
        await elsewhere.ask(RUN, "result")
