"""Commands for steps that wait in queues, whole: a member has no place of ours to look at."""

import msgspec
from msgspec.structs import replace

from perdure.errors import LogCorrupt
from perdure.flow.queues import is_suspect, key_of
from perdure.flow.states import QueuedState
from perdure.flow.view import View
from perdure.log.protocol import Commands
from perdure_schemas.payload import Payload
from perdure_schemas.records import StepCommand, V

_ENCODE = msgspec.json.Encoder().encode


def put_command(commands: Commands, view: View, run: str, op: str, queued: QueuedState) -> int:
    """Its ticket."""
    step = queued.opening
    if step.arguments.ref is not None:
        step = replace(step, arguments=whole_payload(view, step.arguments, "arguments"))
    command = StepCommand(V, run, op, queued.digest, queued.attempt, step, is_suspect(queued))
    return commands.put(step.queue, key_of(run, op), _ENCODE(command))


def whole_payload(view: View, payload: Payload, field: str) -> Payload:
    """A payload that is no reference to another record."""
    found = view.inline(payload, field)
    if found is None or found.ref is not None:
        raise LogCorrupt(f"partition {view.partition}: a reference points to a record that is not kept: {payload.ref}")
    return found
