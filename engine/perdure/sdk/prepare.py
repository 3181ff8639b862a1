"""What a run's function is called with: its Context, its event, its arguments, what ended."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from perdure.errors import PayloadError
from perdure.sdk.context import context_of
from perdure.sdk.ended import Ended
from perdure.sdk.events import EventReader
from perdure.worker import Execution
from perdure.worker.arguments import decode_arguments
from perdure_schemas.records import Ending


def prepare(execution: Execution) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Raises `PayloadError` if the event or the arguments do not fit their types: the run fails, without retries."""
    state, function = execution.state, execution.function
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    ending = execution.processor.view.ending_of(state)
    if ending is not None:
        args = (_ended(execution, ending),)
    elif state.event is not None:
        args = (_event(execution.read(state.event, "event"), function.data_types, function.id),)
    elif state.arguments is not None:
        raw = execution.read(state.arguments, "arguments")
        args, kwargs = decode_arguments(function, raw)
    return ((context_of(execution), *args) if function.takes_context else args), kwargs


def _event(raw: bytes, types: Mapping[str, Any], function: str) -> Any:
    try:
        return EventReader(types).__perdure_decode__(Raw(raw))
    except msgspec.ValidationError as error:
        raise PayloadError(f"the event does not fit {function!r}: {error}") from error


def _ended(execution: Execution, ending: Ending) -> Ended:
    event = None
    if ending.event is not None:
        spec = execution.worker.functions.get(ending.function)
        raw = execution.read(ending.event, "event")
        try:
            event = _event(raw, spec.data_types if spec else {}, ending.function)
        except PayloadError:
            # That may be why the run failed: its handler gets the data as they came.
            event = _event(raw, {}, ending.function)
    return Ended(ending, event, execution.read)
