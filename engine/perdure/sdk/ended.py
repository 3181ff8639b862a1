"""What `on_failure` and `on_cancel` get: the run that ended, with what it had done."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

from msgspec import Raw

from perdure.errors import Failed, PayloadTooLarge, RunFailed
from perdure.sdk.events import Event
from perdure.sdk.function import Function
from perdure.sdk.step import Step
from perdure.worker.payloads import decoder_for
from perdure_schemas.payload import Payload
from perdure_schemas.records import Ending

R = TypeVar("R")


class Ended:
    """A run that failed, timed out or was cancelled."""

    run_id: str
    function_id: str
    status: Literal["failed", "cancelled"]
    error: Failed | None
    event: Event[Any] | None

    def __init__(self, ending: Ending, event: Event[Any] | None, read: Callable[[Payload], Raw]) -> None:
        self._ending = ending
        self._read = read
        self.run_id = ending.run
        self.function_id = ending.function
        self.status = cast("Literal['failed', 'cancelled']", ending.status)
        self.event = event
        info = ending.error
        self.error = None
        if info is not None:
            error = RunFailed(info.type, info.message, info.traceback, info.attempts, bases=info.bases)
            error.run_id = ending.run
            self.error = error

    def result(self, of: Step[..., R] | Function[..., R], /) -> R | None:
        """The last result of this step (or called function) in the run; None if it has none.

        Raises `PayloadTooLarge` for one that was left out, since all of them together were too large for a record.
        """
        name = of.name if isinstance(of, Step) else of.id
        payload = self._ending.results.get(name)
        if payload is None:
            return None
        if payload == Payload():
            raise PayloadTooLarge(
                f"the result of {name!r} was left out: the results of run {self.run_id} are too large for one record. "
                "Let steps return keys of what they keep elsewhere"
            )
        return cast("R", decoder_for(of.spec.returns)(self._read(payload)))
