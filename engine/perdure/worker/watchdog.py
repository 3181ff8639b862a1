"""Names the step that blocks the event loop: nothing else of the process runs meanwhile, timers and requests included.

A thread looks at a heartbeat of the loop. When it stands still, the loop's stack says whose code is running.
"""

import asyncio
import logging
import sys
import threading
from contextvars import Context
from time import monotonic
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from perdure.flow.lines import op_name

if TYPE_CHECKING:
    from perdure.worker.execution import Execution
    from perdure.worker.worker import Worker

log = logging.getLogger("perdure.worker")
BLOCKED_SECONDS = 1.0
AGAIN_SECONDS = 60.0
"""The same code is named at most this often."""


class Watchdog:
    """Started with its worker, stopped with it. The thread begins with the first heartbeat."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._loop = worker.loop
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._beaten = monotonic()
        self._named: dict[str, float] = {}
        self._due = 0.0
        self._beat: asyncio.TimerHandle = self._plan()

    def _plan(self) -> asyncio.TimerHandle:
        self._due = self._loop.time() + BLOCKED_SECONDS / 4
        return self._loop.call_later(BLOCKED_SECONDS / 4, self._tick, context=Context())

    def _tick(self) -> None:
        self._beaten = monotonic()
        delays = self._worker.telemetry.measures.loop_delay
        delays.waiting.append(max(0, int((self._loop.time() - self._due) * 1_000_000)))
        delays.gather()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True)
            self._thread.start()
        self._beat = self._plan()

    def stop(self) -> None:
        self._beat.cancel()
        self._stopped.set()

    def _watch(self) -> None:
        # A loop that was closed beats no more, and nobody blocks it.
        while not self._stopped.wait(BLOCKED_SECONDS / 4) and not self._loop.is_closed():
            still = monotonic() - self._beaten
            if still > BLOCKED_SECONDS:
                frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
                culprit = self._culprit(frame)
                if culprit and monotonic() - self._named.get(culprit, -AGAIN_SECONDS) >= AGAIN_SECONDS:
                    self._named[culprit] = monotonic()
                    log.warning(
                        "%s blocks the event loop: nothing else has run for %.1fs (%s). "
                        "Make it a def step, which runs in a thread, or await asyncio.to_thread(…).",
                        culprit,
                        still,
                        _place(frame),
                    )

    def _culprit(self, frame: FrameType | None) -> str:
        """Whose code the loop is running; nothing if it is none of ours."""
        codes: set[CodeType] = set()
        while frame is not None:
            codes.add(frame.f_code)
            known = frame.f_locals if frame.f_code.co_filename in _OURS else {}
            if frame.f_code.co_name == "run_step" and "spec" in known:
                return _step(known["spec"].name, known["execution"])
            if frame.f_code.co_name == "main" and "execution" in known:
                return f"code of {known['execution'].function.id!r} outside of steps"
            if frame.f_code.co_name == "_track" and "branch" in known:
                execution = known["branch"].execution
                return self._in_body(codes) or f"code of {execution.function.id!r} outside of steps"
            frame = frame.f_back
        return self._in_body(codes)

    def _in_body(self, codes: set[CodeType]) -> str:
        """A step with a timeout runs in a task of its own, which nothing on the stack tells."""
        for execution in list(self._worker.executions.values()):
            for op, body in list(execution.bodies.items()):
                spec: Any = getattr(body, "spec", None)
                if spec is not None and getattr(spec.fn, "__code__", None) in codes:
                    return _step(op_name(op), execution)
        for name, fn in self._worker.pooled():
            if getattr(fn, "__code__", None) in codes:
                return name
        return ""


def _step(name: str, execution: "Execution") -> str:
    return f"step {name!r} of {execution.function.id!r}"


def _place(frame: FrameType | None) -> str:
    """`file:line` of the innermost code, which is where it stands still."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


_OURS = frozenset(__file__.replace("watchdog.py", name) for name in ("steps.py", "main.py", "lineage.py"))
