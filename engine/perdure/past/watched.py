"""Runs whose ops are watched as user code asks for them and is answered. Only replays are: live runs pay nothing."""

from typing import TYPE_CHECKING, Protocol, cast

from perdure.worker.delivery import Delivered, Go
from perdure.worker.execution import Execution

if TYPE_CHECKING:
    from perdure.past.replay import ReplayWorker


class Onlooker(Protocol):
    """`asked` and `answered` are called in the task of the user code, whose frames are on the stack."""

    def asked(self, execution: Execution, op: str, digest: str) -> None:
        """User code asks for `op`. What this raises is raised to it."""
        ...

    def answered(self, execution: Execution, outcome: Delivered) -> None:
        """User code is about to get what the log has."""
        ...

    def failed(self, execution: Execution, error: BaseException) -> None:
        """The function raised `error`, and user code is at its end."""
        ...


class WatchedExecution(Execution, eq=False):
    """Every op of it goes through `ask`, and what is not answered there through `wait`."""

    def ask(self, op: str, asked: str) -> Delivered | None:
        onlooker = self._onlooker
        onlooker.asked(self, op, asked)
        delivered = Execution.ask(self, op, asked)
        if delivered is not None:
            onlooker.answered(self, delivered)
        return delivered

    async def wait(self, op: str) -> Delivered | Go:
        answer = await Execution.wait(self, op)
        if isinstance(answer, Delivered):
            self._onlooker.answered(self, answer)
        return answer

    @property
    def _onlooker(self) -> Onlooker:
        return cast("ReplayWorker", self.worker).onlooker
