"""What began a run, as expressions and match paths see it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.flow.intake import event_view
from perdure.worker import Execution
from perdure.worker.asking import trigger_of_arguments
from perdure_schemas.event import EventBody

_decode_body = msgspec.json.Decoder(EventBody).decode


def trigger_of(execution: Execution) -> Mapping[str, Any]:
    """Decoded anew each time: few runs ask for it, and those seldom."""
    state = execution.state
    if execution.processor.view.ending_of(state) is not None:
        return _NOTHING
    if state.event is not None:
        return event_view(_decode_body(execution.read(state.event, "event")))
    if state.arguments is not None:
        raw = execution.read(state.arguments, "arguments")
        return trigger_of_arguments(execution.function, raw)
    return _NOTHING


_NOTHING: Mapping[str, Any] = {"name": "", "data": {}, "user": {}}
