"""Handles: a run, seen from elsewhere. Inside a run their methods are ops."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from perdure import worker
from perdure.errors import Duration, UnknownRun
from perdure.flow.routing import run_id
from perdure.sdk.context import context_of
from perdure.sdk.port import RunStatus
from perdure.worker.asking import result_of
from perdure_schemas.records import CancelRun, OpOpened, RerunRun, RunAnswered, Watch

if TYPE_CHECKING:
    from perdure.sdk.function import Function

R_co = TypeVar("R_co", covariant=True)


class RunHandle(Generic[R_co]):
    """A run of `function`, by its id."""

    id: str

    def __init__(self, function: "Function[..., R_co]", run_id: str, via: tuple[str, ...] = ()) -> None:
        self.id = run_id
        self._function = function
        self._via = via
        """Inside a run: see `Watch.via`."""

    async def result(self, *, timeout: Duration | None = None) -> R_co:
        """Waits for the run's end and gives its result.

        Raises `RunFailed` (or the `NonRetriable` that ended it), `TimeoutError`, `UnknownRun`.
        """
        execution = worker.current()
        if execution is None:
            found: R_co = await _client(self._function).result_of(self._function, self.id, timeout)
            return found
        if timeout is not None:
            async with context_of(execution).timeout(timeout):
                return await self.result()
        answer = await execution.open("result", (self.id,), lambda op: Watch(self.id, "result", self._via), self._known)
        return cast("R_co", result_of(execution, answer, self._function.spec.returns))

    async def status(self) -> RunStatus:
        """The run's state at present. Raises `UnknownRun`."""
        execution = worker.current()
        if execution is None:
            status: RunStatus = await _client(self._function).port.status(self.id)
            return status
        answer = await execution.open("status", (self.id,), lambda op: Watch(self.id, "status", self._via), self._known)
        return cast("RunStatus", "completed" if answer.status == "continued" else answer.status)

    async def cancel(self, *, reason: str = "") -> None:
        """Cancels the run: its ops raise `RunCancelled`, its called children are cancelled, `on_cancel` runs."""
        execution = worker.current()
        if execution is None:
            await _client(self._function).port.cancel(self.id, reason)
        else:
            await execution.open(
                "cancel", (self.id, reason), lambda op: CancelRun(self.id, reason), lambda opened: None
            )

    async def rerun(self) -> "RunHandle[R_co]":
        """A new run with the same trigger or arguments."""
        execution = worker.current()
        if execution is None:
            return RunHandle(self._function, await _client(self._function).port.rerun(self.id))
        own = execution.run_id
        return await execution.open(
            "rerun", (self.id,), lambda op: RerunRun(self.id, run_id(own, op), self._via), self._rerun
        )

    def _rerun(self, opened: object) -> "RunHandle[R_co]":
        assert isinstance(opened, OpOpened)
        assert isinstance(opened.opening, RerunRun)
        return RunHandle(self._function, opened.opening.new_run, (*self._via, self.id))

    def _known(self, answer: object) -> RunAnswered:
        assert isinstance(answer, RunAnswered), f"I4: a watch's outcome is a {type(answer).__name__}"
        if answer.status == "unknown":
            raise UnknownRun(f"no run {self.id!r}: it never was, or ended longer ago than the window")
        return answer

    def __repr__(self) -> str:
        return f"<run {self.id} of {self._function.id!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


def _client(function: "Function[..., Any]") -> Any:
    from perdure.sdk.binding import client_for

    return client_for(function.app, f"a handle of {function.id!r}")
