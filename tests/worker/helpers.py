"""What the tests of running code share."""

from typing import Any, TypeVar

import pytest

from perdure import App, Function
from perdure.testing import Run, TestEngine

R = TypeVar("R")

both_ways = pytest.mark.both_ways
"""A test of what must be the same live and with a replay at every op."""


async def finished(app: App, flow: Function[..., R], *args: Any, evict: bool = False) -> Run[R]:
    """The one run of `flow(*args)`, at its end."""
    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue(*args)
        await engine.finish()
        return engine.run(flow)


async def ops(engine: TestEngine, run: Run[Any]) -> list[str]:
    """Identities of the run's ops, in log order."""
    return [op.op for op in (await engine.port.run(run.id)).ops]


async def deploy(engine: TestEngine, app: App) -> None:
    """Kill the process, and start one with other code on the same log."""
    engine.app = app
    await engine.crash()


def failure(run: Run[Any]) -> str:
    """What a failed run says."""
    assert run.status == "failed", run
    return str(run.error)
