"""What a run's function is called with: its Context, its event, its arguments, what ended."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from perdure.errors import PayloadError
from perdure.flow.intake import event_view
from perdure.sdk.context import Context
from perdure.sdk.ended import Ended
from perdure.sdk.events import EventReader
from perdure.worker import Execution
from perdure.worker.arguments import decode_arguments
from perdure.worker.asking import trigger_of_arguments
from perdure_schemas.event import EventBody
from perdure_schemas.payload import Payload
from perdure_schemas.records import Ending

_decode_body = msgspec.json.Decoder(EventBody).decode
Read = Callable[[Payload], bytes]


def prepare(execution: Execution) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Raises `PayloadError` if the event or the arguments do not fit their types: the run fails, without retries."""
    state, function = execution.state, execution.function
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    trigger: Callable[[], Mapping[str, Any]] = _nothing
    ending = execution.processor.view.ending_of(state)
    if ending is not None:
        args = (_ended(execution, ending),)
    elif state.event is not None:
        raw = execution.processor.payload(state.event, field="event")
        trigger = partial(_trigger_of_event, raw)
        args = (_event(raw, function.data_types, function.id),)
    elif state.arguments is not None:
        raw = execution.worker.payload_bytes(execution.processor, state.arguments, "arguments")
        args, kwargs = decode_arguments(function, raw)
        trigger = partial(trigger_of_arguments, function, raw)
    context = execution.context = Context(execution, trigger)
    return ((context, *args) if function.takes_context else args), kwargs


def _nothing() -> Mapping[str, Any]:
    return {"name": "", "data": {}, "user": {}}


def _trigger_of_event(raw: bytes) -> Mapping[str, Any]:
    return event_view(_decode_body(raw))


def _event(raw: bytes, types: Mapping[str, Any], function: str) -> Any:
    try:
        return EventReader(types).__perdure_decode__(Raw(raw))
    except msgspec.ValidationError as error:
        raise PayloadError(f"the event does not fit {function!r}: {error}") from error


def _ended(execution: Execution, ending: Ending) -> Ended:
    def read(payload: Payload) -> bytes:
        return execution.worker.payload_bytes(execution.processor, payload)

    event = None
    if ending.event is not None:
        spec = execution.worker.functions.get(ending.function)
        raw = execution.processor.payload(ending.event, field="event")
        try:
            event = _event(raw, spec.data_types if spec else {}, ending.function)
        except PayloadError:
            # That may be why the run failed: its handler gets the data as they came.
            event = _event(raw, {}, ending.function)
    return Ended(ending, event, read)
