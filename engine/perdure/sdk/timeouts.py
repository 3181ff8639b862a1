"""`ctx.timeout`: asyncio.timeout by the log's clock."""

import asyncio
from types import TracebackType
from typing import Any

from perdure.worker import Execution
from perdure_schemas.records import Sleep


class DurableTimeout:
    """An async context manager. Its timer is an op; leaving the block closes it."""

    def __init__(self, execution: Execution, for_ms: int) -> None:
        self._execution = execution
        self._for_ms = for_ms
        self._timer: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._expired = False
        self._cancelling = 0

    async def __aenter__(self) -> None:
        for_ms = self._for_ms
        opened = self._execution.open(
            "timeout", (f"{for_ms}ms",), lambda op: Sleep(for_ms=for_ms, purpose="timeout"), lambda fired: None
        )
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._timer = asyncio.get_running_loop().create_task(opened)
        self._timer.add_done_callback(self._ring)

    def _ring(self, timer: "asyncio.Task[Any]") -> None:
        if not timer.cancelled() and timer.exception() is None and self._task is not None:
            self._expired = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._timer is not None
        if self._expired:
            if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError(f"ctx.timeout: {self._for_ms / 1000:g}s are over") from error
            return
        self._timer.remove_done_callback(self._ring)
        self._task = None
        self._timer.cancel()
        await asyncio.wait({self._timer})
        if not self._timer.cancelled():
            self._timer.exception()
