"""Spans, each when its end is read back from the log, with the log's times and ids that the log gives.

    step.completed, step.failed ──► the attempt's span, from its end and what it took
    run.finished, a cancel, …    ──► the run's span, from its start to its end

A run may live for days and in many processes: no span is open meanwhile. What runs inside is told the ids of the spans
that will be, so that spans of the user's own libraries find their place below them.
"""

import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import Token
from functools import lru_cache
from threading import local
from typing import cast

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from perdure.flow.effects import Act, Deliver, Ended, Faltered
from perdure.flow.lines import op_name
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.worker.tracing import attempt_span, checked, own_span
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import StepCompleted, StepFailed

log = logging.getLogger("perdure.otel")
REMEMBERED = 4_096
"""Runs of which is known whether their trace is sampled, so that their steps need not ask."""
_SCOPE = "perdure"
_NS_A_MS, _NS_A_US = 1_000_000, 1_000


def spans_of(app: str) -> "Spans | None":
    """Spans of the app's runs, for the provider that the program has set. None, with a word of it, if it has not."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        log.warning(
            "tracing is on, but nobody takes spans: set a TracerProvider of opentelemetry-sdk before the engine opens, "
            "or start the program by opentelemetry-instrument"
        )
        return None
    tracer = provider.get_tracer(_SCOPE)
    # OTEL_SDK_DISABLED gives one that does nothing.
    return Spans(app, tracer) if isinstance(tracer, Tracer) else None


class Spans:
    """See `perdure.worker.tracing.Tracing`."""

    def __init__(self, app: str, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer
        tracer.id_generator = _IDS
        self._told = False
        self._own = lru_cache(REMEMBERED)(self._own_of)

    def of_run(self, view: View, run: RunState) -> str:
        """The traceparent of the run's own span."""
        return self._own(run.id, run.function, self._parent_of(view, run))

    def _parent_of(self, view: View, run: RunState) -> str:
        """What asked for the run; of a handler, the run whose end it is for."""
        given = checked(run.traceparent)
        ending = view.ending_of(run)
        return given if ending is None else self._own(ending.run, ending.function, given)

    def _own_of(self, run: str, function: str, parent: str) -> str:
        whole = own_span(run, parent, sampled=True)
        try:
            context = _below(parent)
            kept = self._tracer.sampler.should_sample(
                context, _ids(whole)[0], function, attributes=self._attributes(run, function)
            )
        except Exception as error:
            self._tell(error)
            return whole
        return own_span(run, parent, sampled=kept.decision is Decision.RECORD_AND_SAMPLE)

    def _attributes(self, run: str, function: str) -> dict[str, str | int]:
        return {"perdure.app": self._app, "perdure.function": function, "perdure.run.id": run}

    def enter(self, traceparent: str) -> object:
        """Make that span the current one of the calling context."""
        return contexts.attach(_below(traceparent, remote=False))

    def leave(self, token: object) -> None:
        """The span that was current before is so again."""
        contexts.detach(cast("Token[contexts.Context]", token))

    def saw(self, view: View, acts: Iterable[Act]) -> None:
        """Make the spans of what has ended."""
        for act in acts:
            try:
                self._saw(view, act)
            except Exception as error:
                self._tell(error)

    def _saw(self, view: View, act: Act) -> None:
        if isinstance(act, Deliver):
            if isinstance(act.outcome, StepCompleted | StepFailed):
                self._attempt(view, act.outcome, act.at)
        elif isinstance(act, Faltered):
            self._attempt(view, act.failure, act.at)
        elif isinstance(act, Ended):
            self._run(view, act.run)

    def _tell(self, error: Exception) -> None:
        """Once: whose exporter or sampler fails learns of it, and runs go on."""
        if not self._told:
            self._told = True
            log.warning("a span could not be made, and others may be missing, too", exc_info=error)

    def _attempt(self, view: View, end: StepCompleted | StepFailed, at: int) -> None:
        run = view.runs.get(end.run)
        if run is None:
            return
        parent = self.of_run(view, run)
        if not _is_sampled(parent):
            return
        attributes = self._attributes(run.id, run.function)
        attributes |= {"perdure.step.op": end.op, "perdure.step.attempt": end.attempt}
        end_ns = at * _NS_A_MS
        self._make(
            op_name(end.op),
            attempt_span(parent, run.id, end.op, end.attempt),
            _below(parent, remote=False),
            (end_ns - end.took_us * _NS_A_US, end_ns),
            attributes,
            {},
            end.error if isinstance(end, StepFailed) else None,
        )

    def _run(self, view: View, run_id: str) -> None:
        run = view.runs.get(run_id)
        if run is None or not run.function or run.ended_at is None:
            return
        parent = self._parent_of(view, run)
        began = run.started_at or run.requested_at
        later: dict[str, str | int] = {
            "perdure.run.cause": run.cause,
            "perdure.run.status": run.status,
            "perdure.run.queued_ms": began - run.requested_at,
        }
        named = {"perdure.event.id": run.event_id, "perdure.run.rerun_of": run.rerun_of}
        self._make(
            run.function,
            self._own(run.id, run.function, parent),
            _below(parent),
            (began * _NS_A_MS, run.ended_at * _NS_A_MS),
            self._attributes(run.id, run.function),
            {**later, **{name: text for name, text in named.items() if text}},
            run.error if run.status == "failed" else None,
            SpanKind.CONSUMER if run.cause == "event" else SpanKind.INTERNAL,
        )

    def _make(
        self,
        name: str,
        own: str,
        parent: contexts.Context,
        times: tuple[int, int],
        attributes: Mapping[str, str | int],
        later: Mapping[str, str | int],
        error: ErrorInfo | None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        """`attributes` are what a sampler sees, `later` what is known at the end."""
        began, ended = times
        with _IDS.named(*_ids(own)):
            span = self._tracer.start_span(name, parent, kind, attributes, start_time=began)
        span.set_attributes(later)
        if error is not None:
            told = {"type": error.type, "message": error.message, "stacktrace": error.traceback}
            span.add_event("exception", {f"exception.{key}": text for key, text in told.items()}, ended)
            span.set_status(Status(StatusCode.ERROR, f"{error.type}: {error.message}"))
        span.end(ended)


class _Ids(RandomIdGenerator):
    """Gives the ids that were named for the span which this thread makes; else ones of chance."""

    def __init__(self) -> None:
        self._named = local()

    @contextmanager
    def named(self, trace: int, span: int) -> Generator[None]:
        self._named.ids = trace, span
        try:
            yield
        finally:
            del self._named.ids

    def generate_trace_id(self) -> int:
        ids = cast("tuple[int, int] | None", getattr(self._named, "ids", None))
        return super().generate_trace_id() if ids is None else ids[0]

    def generate_span_id(self) -> int:
        ids = cast("tuple[int, int] | None", getattr(self._named, "ids", None))
        return super().generate_span_id() if ids is None else ids[1]


_IDS = _Ids()


def _ids(traceparent: str) -> tuple[int, int]:
    return int(traceparent[3:35], 16), int(traceparent[36:52], 16)


def _is_sampled(traceparent: str) -> bool:
    return _flags(traceparent).sampled


def _flags(traceparent: str) -> TraceFlags:
    return TraceFlags(int(traceparent[53:], 16))


def _below(traceparent: str, *, remote: bool = True) -> contexts.Context:
    """A context whose current span is that one; an empty one without it, whatever is current here."""
    if not traceparent:
        return contexts.Context()
    own = SpanContext(*_ids(traceparent), is_remote=remote, trace_flags=_flags(traceparent))
    span = NonRecordingSpan(own)
    return trace.set_span_in_context(span, contexts.Context())
