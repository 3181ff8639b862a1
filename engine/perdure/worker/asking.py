"""Calls of other functions from inside a run."""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from perdure.errors import OutsideRun, PayloadError
from perdure.flow.intake import cancel_rules
from perdure.flow.routing import run_id
from perdure.worker.arguments import CallOptions, arguments_json
from perdure.worker.errors import rebuild_run_failed
from perdure.worker.execution import Execution
from perdure.worker.payloads import decoder_for, show
from perdure.worker.spec import FunctionSpec
from perdure.worker.tracing import current_traceparent
from perdure_schemas.records import Call, CancelRule, Opening, OpOpened, RunAnswered


def call(
    execution: Execution,
    function: FunctionSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: CallOptions,
    *,
    awaited: bool,
) -> Coroutine[Any, Any, Any]:
    """Another function's run as an op: its result, or with `awaited=False` a handle of it."""
    if execution.worker.functions.get(function.id) is not function:
        raise OutsideRun(
            f"{function.id!r} is a function of another app: a run calls those of its own; call it in a step, "
            "where it goes through the other one's engine"
        )
    arguments = arguments_json(function, args, kwargs)
    payload = execution.worker.payloads.inline(arguments, f"what {function.id!r} is called with")

    def opening(op: str) -> Opening:
        key = options.idempotency_key
        app = execution.processor.view.routes()
        name = app.definition.app if app else ""
        return Call(
            function.id,
            run_id(name, function.id, f"key:{key}") if key else run_id(execution.run_id, op),
            payload,
            awaited,
            options.delay_ms,
            options.discard_after_ms,
            options.metadata,
            rules_of_call(function, arguments),
            current_traceparent(),
        )

    what = (list(args), dict(kwargs), options, awaited)
    if awaited:
        return execution.open(function.id, what, opening, lambda answer: result_of(execution, answer, function.returns))
    return execution.open(function.id, what, opening, lambda opened: _handle(execution, opened, function))


def result_of(execution: Execution, answer: object, returns: Any) -> Any:
    """The value of another run's answer. Raises `RunFailed`, or the `NonRetriable` that it ended with."""
    assert isinstance(answer, RunAnswered), f"I4: a call's outcome is a {type(answer).__name__}"
    if answer.status == "completed" and answer.result is not None:
        return read(execution.read(answer.result), returns, answer.of)
    raise rebuild_run_failed(answer.error, answer.of)


def read(raw: bytes | Raw, returns: Any, run: str) -> Any:
    """Another run's result: it may have ended under code that gave another type. Raises `PayloadError`."""
    try:
        return decoder_for(returns)(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PayloadError(f"the result of run {run} does not fit {show(returns)}: {error}") from error


def _handle(execution: Execution, opened: object, function: FunctionSpec) -> Any:
    assert isinstance(opened, OpOpened)
    assert isinstance(opened.opening, Call)
    return execution.worker.handle(function, opened.opening.run)


def trigger_of_arguments(function: FunctionSpec, arguments: bytes | Raw) -> dict[str, Any]:
    """What a run that was called by name has for a trigger: parameters stand where an event has its data.

    An event function that was called was called with its event.
    """
    positional, keywords = _decode(arguments)
    if function.kind == "event":
        given = [*positional, *keywords.values()]
        event: dict[str, Any] = given[0] if given else {}
        return {"data": {}, "user": {}, **event}
    return {"name": "", "data": {**dict(zip(function.parameters, positional, strict=False)), **keywords}, "user": {}}


def rules_of_call(function: FunctionSpec, arguments: bytes | Raw) -> tuple[CancelRule, ...]:
    """The cancel rules of a run that is called by name."""
    if not function.defined.cancel_on:
        return ()
    return cancel_rules(function.defined, trigger_of_arguments(function, arguments))


_decode = msgspec.json.Decoder(tuple[list[Any], dict[str, Any]]).decode
