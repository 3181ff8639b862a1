"""Spans of runs and of the attempts of their steps: who is below whom, once each, with ids that the log gives."""

import logging
from contextlib import AbstractContextManager

import pytest
from msgspec import Raw
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from perdure import App, Context, Ended, Event, NonRetriable, StepError
from perdure.testing import TestEngine
from perdure_schemas.event import EventBody
from tests.otel.conftest import Provide
from tests.otel.spans import CALLER, SPAN, TRACE, Shape, id_of, named, one, parent_of, shape, trace_of
from tests.worker.helpers import both_ways

APP = App("shop")
FAILURES: list[str] = []
"""What the next attempts to reserve raise."""


@APP.step(retries=3)
async def reserve() -> None:
    with library("GET /stock"):
        pass
    if FAILURES:
        raise ValueError(FAILURES.pop(0))


@APP.step
def charge() -> int:
    with library("POST /charges"):
        return 7


@APP.step(queue="gpu")
def render() -> None:
    with library("render page"):
        pass


@APP.background
async def deliver(order: int) -> int:
    await charge()
    return order


@APP.function(on="order/placed")
async def order(ctx: Context, event: Event) -> None:
    await reserve()
    await ctx.sleep("1h")
    await deliver.call(1)
    await render()
    await ctx.send("order/done", {})


@APP.function(on="order/done")
async def thank(ctx: Context, event: Event) -> None:
    pass


def library(name: str) -> AbstractContextManager[object]:
    """A span of a library that somebody else has instrumented."""
    return trace.get_tracer_provider().get_tracer("library").start_as_current_span(name)


def ours(spans: list[ReadableSpan]) -> Shape:
    """Who is below whom, of the spans that we made."""
    scopes = ((span, span.instrumentation_scope) for span in spans)
    return shape([span for span, scope in scopes if scope is not None and scope.name == "perdure"])


async def place(engine: TestEngine, traceparent: str = CALLER) -> None:
    """As the gateway sends it."""
    await engine.port.send([EventBody("o-1", "order/placed", Raw(b"{}"), traceparent=traceparent)])
    await engine.finish()


@both_ways
async def test_a_run_is_below_its_event_and_all_that_it_does_below_the_run(evict: bool, provide: Provide) -> None:
    spans = provide()
    FAILURES[:] = "first", "second"
    async with TestEngine(APP, evict=evict, tracing=True) as engine:
        await place(engine)
    found = spans()
    placed = one(found, "order")
    assert {trace_of(span) for span in found} == {TRACE}
    assert (parent_of(placed), placed.kind) == (SPAN, SpanKind.CONSUMER)
    attempts = named(found, "reserve")
    assert [parent_of(span) for span in attempts] == [id_of(placed)] * 3
    assert [(span.attributes or {})["perdure.step.attempt"] for span in attempts] == [1, 2, 3]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert attempts[0].status.description == "ValueError: first"
    assert (attempts[0].events[0].attributes or {})["exception.message"] == "first"
    assert [parent_of(span) for span in named(found, "GET /stock")] == [id_of(span) for span in attempts]
    child = one(found, "deliver")
    assert parent_of(child) == parent_of(one(found, "thank")) == parent_of(one(found, "render")) == id_of(placed)
    assert parent_of(one(found, "charge")) == id_of(child)
    assert parent_of(one(found, "POST /charges")) == id_of(one(found, "charge"))
    assert parent_of(one(found, "render page")) == id_of(one(found, "render"))
    assert len({id_of(span) for span in found}) == len(found)
    assert (placed.end_time or 0) - (placed.start_time or 0) >= 3_600 * 10**9, "it slept meanwhile"


async def test_spans_say_whose_they_are(provide: Provide) -> None:
    spans = provide()
    async with TestEngine(APP, tracing=True) as engine:
        await place(engine)
        run = engine.run(order)
    assert dict(one(spans(), "order").attributes or {}) == {
        "perdure.app": "shop",
        "perdure.function": "order",
        "perdure.run.id": run.id,
        "perdure.run.cause": "event",
        "perdure.run.status": "completed",
        "perdure.run.queued_ms": 0,
        "perdure.event.id": "o-1",
    }
    assert dict(one(spans(), "reserve").attributes or {}) == {
        "perdure.app": "shop",
        "perdure.function": "order",
        "perdure.run.id": run.id,
        "perdure.step.op": "0/reserve#1",
        "perdure.step.attempt": 1,
    }


async def test_a_crash_after_any_record_gives_the_same_spans(provide: Provide) -> None:
    """Some of them twice: with the same ids."""

    async def once(crash_after: int) -> tuple[int, Shape]:
        spans, made = provide(), 0

        def crashes(record: int) -> bool:
            nonlocal made
            made = record
            return record == crash_after

        engine = TestEngine(APP, tracing=True)
        engine.log.on_append = crashes
        async with engine:
            await place(engine)
            written = made
        return written, ours(spans())

    records, expected = await once(-1)
    assert {name for name, *_ in expected} == {"order", "reserve", "deliver", "charge", "render", "thank"}
    for record in range(1, records + 1):
        _, found = await once(record)
        assert found == expected, f"a crash after record {record} of {records}"


async def test_a_run_that_nobody_traced_has_a_trace_of_its_own(provide: Provide) -> None:
    found: list[Shape] = []
    for _ in range(2):
        spans = provide()
        async with TestEngine(APP, tracing=True) as engine:
            await place(engine, "")
        placed = one(spans(), "order")
        assert parent_of(placed) == 0
        assert {trace_of(span) for span in spans()} == {trace_of(placed)}
        found.append(ours(spans()))
    assert found[0] == found[1]


@pytest.mark.parametrize("traceparent", [CALLER, ""])
async def test_a_handler_is_below_the_run_that_failed(traceparent: str, provide: Provide) -> None:
    spans = provide()
    app = App("shop")

    @app.step
    async def hopeless() -> None:
        raise NonRetriable("never")

    async def clean_up(ctx: Context, ended: Ended) -> None:
        pass

    @app.function(on="order/placed", on_failure=clean_up)
    async def order(ctx: Context, event: Event) -> None:
        await hopeless()

    async with TestEngine(app, tracing=True) as engine:
        await place(engine, traceparent)
    failed, handler = one(spans(), "order"), one(spans(), "order:on_failure")
    assert failed.status.status_code == StatusCode.ERROR
    assert (parent_of(handler), trace_of(handler)) == (id_of(failed), trace_of(failed))
    assert handler.status.status_code == StatusCode.UNSET


async def test_a_cancelled_run_has_a_span_without_an_error(provide: Provide) -> None:
    spans = provide()
    async with TestEngine(APP, tracing=True) as engine:
        await engine.port.send([EventBody("o-1", "order/placed", Raw(b"{}"))])
        run = engine.run(order)
        await engine.port.cancel(run.id)
        await engine.finish()
    placed = one(spans(), "order")
    assert placed.status.status_code == StatusCode.UNSET
    assert (placed.attributes or {})["perdure.run.status"] == "cancelled"


@pytest.mark.parametrize(
    ("sampler", "traceparent"),
    [(ALWAYS_OFF, CALLER), (ParentBased(TraceIdRatioBased(0)), ""), (None, CALLER[:-1] + "0")],
    ids=["off", "ratio", "its caller's"],
)
async def test_what_is_not_sampled_makes_no_spans_in_the_whole_trace(
    sampler: ParentBased | None, traceparent: str, provide: Provide
) -> None:
    spans = provide(sampler)
    async with TestEngine(APP, tracing=True) as engine:
        await place(engine, traceparent)
        assert engine.run(thank).status == "completed"
    assert spans() == []


async def test_spans_that_cannot_be_made_hurt_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise OSError("no room")

        def on_start(self, span: Span, parent_context: object = None) -> None:
            if span.name == "order":
                raise OSError("no room")

    provider = TracerProvider()
    provider.add_span_processor(Broken())
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    app = App("shop")

    @app.step
    async def nothing() -> None:
        pass

    @app.function(on="order/placed")
    async def order(ctx: Context, event: Event) -> None:
        await nothing()
        await nothing()

    with caplog.at_level(logging.WARNING, "perdure.otel"):
        async with TestEngine(app, tracing=True) as engine:
            await place(engine)
            assert engine.run(order).status == "completed"
    assert [record.message for record in caplog.records] == ["a span could not be made, and others may be missing, too"]


async def test_a_step_error_is_told_once_for_each_attempt(provide: Provide) -> None:
    """Also the last one, which is the step's outcome."""
    spans = provide()
    app = App("shop")

    @app.step(retries=1)
    async def flaky() -> None:
        raise ValueError("no")

    @app.background
    async def flow() -> str:
        try:
            await flaky()
        except StepError:
            return "gave up"
        return ""

    async with TestEngine(app, tracing=True) as engine:
        await flow.enqueue()
        await engine.finish()
    assert [span.status.status_code for span in named(spans(), "flaky")] == [StatusCode.ERROR] * 2
    assert one(spans(), "flow").status.status_code == StatusCode.UNSET
