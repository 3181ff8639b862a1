"""Runs as a test sees them."""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import UNSET, Struct

from perdure.errors import Failed, StepError
from perdure.flow.states import RunState
from perdure.log.protocol import LocalLog
from perdure.sdk.journal import RunReader, named_in
from perdure.sdk.node import Node
from perdure.sdk.port import OpDetail, RunStatus
from perdure.worker.errors import rebuild_run_failed
from perdure.worker.payloads import decoder_for
from perdure_schemas import AnyRecord

R_co = TypeVar("R_co", covariant=True)


class StepRecord(Struct):
    """One step of a run, with its result or error."""

    name: str
    result: Any
    error: Failed | None
    attempts: int


class Run(Struct, Generic[R_co], frozen=True):
    """A run, with what the log has of it. `output` is the result of a completed one, else None."""

    id: str
    status: RunStatus
    output: R_co
    error: Failed | None
    steps: Sequence[StepRecord]


def run_of(node: Node, state: RunState, status: RunStatus) -> Run[Any]:
    """Everything a test can ask of a run."""
    processor = node.processor_of(state.id)
    spec = node.specs.get(state.function)
    output = None
    if state.result is not None:
        raw = node.worker.payload_json(processor, state.result)
        output = decoder_for(spec.returns if spec else Any)(raw)
    error = rebuild_run_failed(state.error, state.id) if state.error is not None else None
    if error is not None and not isinstance(error, Failed):
        assert state.error is not None
        info = state.error
        error = Failed(info.type, info.message, info.traceback, info.attempts, bases=info.bases)
    types = {step.name: step.spec.returns for step in node.app.steps}
    records = _records_of(cast("LocalLog", node.log), processor.partition, state, processor.view.meta.moved)
    ops = RunReader(processor, node.worker).read(state, records)
    steps = [_step(op, types.get(op.name, Any)) for op in ops if op.type == "step"]
    return Run(state.id, status, output, error, steps)


def _records_of(log: LocalLog, partition: int, state: RunState, moved: int) -> Iterator[tuple[int, AnyRecord]]:
    end = log.end(partition)
    offset = max(state.requested_offset - moved, log.start(partition))
    while offset < end:
        for batch in log.read(partition, offset):
            yield from ((at, record) for at, record, _ in named_in(batch, state, moved))
            offset = batch.offset + len(batch.values)


def _step(op: OpDetail, annotation: Any) -> StepRecord:
    result = None
    if op.result is not UNSET:
        try:
            result = decoder_for(annotation)(op.result)
        except msgspec.DecodeError:
            result = msgspec.json.decode(op.result)
    error = None
    failure = op.error or (op.attempts[-1].error if op.attempts and op.status == "open" else None)
    if failure is not None:
        error = StepError(failure.type, failure.message, failure.traceback, failure.attempts, bases=failure.bases)
        error.step = op.name
    return StepRecord(op.name, result, error, max((one.number for one in op.attempts), default=0))
