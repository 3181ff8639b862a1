"""A fork as records: its request, and the lines of another run's history as its own."""

import msgspec
from msgspec.structs import replace

from perdure.errors import PayloadError, PayloadUnavailable
from perdure.flow.effects import Line
from perdure.flow.intake import cancel_rules, event_view, payload_of
from perdure.sdk.port import ForkAsk, ForkLine
from perdure.worker.arguments import decode_arguments
from perdure.worker.asking import rules_of_call
from perdure.worker.coding import Payloads
from perdure.worker.spec import FunctionSpec
from perdure_schemas.payload import Payload
from perdure_schemas.records import (
    CancelRule,
    Fork,
    OpOpened,
    RunAnswered,
    RunRecalled,
    RunRequested,
    StepCompleted,
    StepFailed,
    TimerFired,
    V,
)

MOST_LINES = 1_000_000
_DECODE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_ENCODE = msgspec.json.Encoder().encode


def check(ask: ForkAsk) -> None:
    """Raises `PayloadError` for a part that is none."""
    if not ask.key:
        raise PayloadError("'key' is missing: parts of a fork are known by it")
    if not 0 <= ask.first <= ask.first + len(ask.lines) <= ask.total <= MOST_LINES:
        raise PayloadError(
            f"lines {ask.first} to {ask.first + len(ask.lines)} of {ask.total}: a fork has {MOST_LINES:,} at most, and "
            "a part some of them"
        )
    known = [ask.arguments, *([] if ask.ending is None else [ask.ending.event, *ask.ending.results.values()])]
    if any(payload is not None and payload.ref is not None for payload in known):
        raise PayloadError("what another log has of a run is sent whole: references within it mean nothing here")


def request_of(ask: ForkAsk, run: str, spec: FunctionSpec, payloads: Payloads) -> RunRequested:
    """What changed in its trigger or arguments since the other run's counts for its cancel rules, too.

    Raises `PayloadError` for arguments that do not fit, as far as they can be read here.
    """
    plain = None if ask.arguments is None or ask.arguments.encoded else ask.arguments.inline
    if isinstance(plain, msgspec.Raw):
        decode_arguments(spec, plain)
    return RunRequested(
        run,
        spec.id,
        "fork",
        event=None if ask.event is None else payload_of(ask.event),
        arguments=_kept(payloads, ask.arguments, f"what {spec.id!r} is called with"),
        event_id=ask.event_id,
        rules=_rules(ask, spec, payloads),
        metadata=ask.metadata,
        command=ask.key,
        rerun_of=ask.of,
        ending=ask.ending,
        scheduled=ask.scheduled,
        fork=Fork(ask.seed, ask.began, ask.total, ask.code),
        v=V,
    )


def _rules(ask: ForkAsk, spec: FunctionSpec, payloads: Payloads) -> tuple[CancelRule, ...]:
    if not spec.defined.cancel_on:
        return ()
    if ask.event is not None:
        return cancel_rules(spec.defined, event_view(ask.event))
    if ask.arguments is None:
        return ()
    try:
        return rules_of_call(spec, payloads.json_of(ask.arguments))
    except PayloadUnavailable:
        raise
    except Exception as error:
        raise PayloadError(f"what {spec.id!r} is called with cannot be read: {error!r}") from error


def recalled_of(run: str, n: int, line: ForkLine, payloads: Payloads) -> RunRecalled:
    """Raises `PayloadError` for what is no line of a run."""
    try:
        record = _DECODE.decode(line.line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PayloadError(f"line {n} of the history is not a record of a run: {error}") from None
    record = replace(record, **{"entity" if isinstance(record, TimerFired) else "run": run})
    if isinstance(record, StepCompleted | StepFailed | OpOpened):
        record = replace(record, digest="")
    if isinstance(record, StepCompleted | RunAnswered):
        record = replace(record, result=_kept(payloads, record.result, f"the result of {record.op!r}"))
    return RunRecalled(run, n, line.at, msgspec.Raw(_ENCODE(replace(record, from_=None, orig=None, v=V))), v=V)


def _kept(payloads: Payloads, payload: Payload | None, what: str) -> Payload | None:
    """As the app's codec makes it: what people have changed is plain."""
    if payload is None or payload.encoded or not payloads.coded or not isinstance(payload.inline, msgspec.Raw):
        return payload
    return payloads.inline(payload.inline, what)
