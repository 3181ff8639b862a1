"""What carries a trace: events and calls, into the engine and out of it. Where no spans are made, too."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw
from opentelemetry import trace

from perdure import App, Context, Engine, Event
from perdure.errors import DefinitionError
from perdure.sdk.event_input import event_from_json
from perdure.sdk.http_port import HttpPort
from perdure.sdk.ingest import event_of
from perdure.sdk.port import Enqueue
from perdure.sdk.sender import event_body
from perdure.testing import TestEngine
from perdure.worker.tracing import attempt_span, checked, own_span, trace_id
from perdure_schemas.event import EventBody
from tests.http.fake_port import FakePort
from tests.http.serving import client_of, served
from tests.http.test_http_port import InThread
from tests.otel.conftest import Provide
from tests.otel.spans import CALLER
from tests.sdk.test_ingest import BINARY, STRUCTURED, Record
from tests.system.engine_process import environment

OTHER = CALLER.replace("4bf9", "aaaa")
HOSTILE = [
    *("", "00", "-", CALLER.upper(), CALLER[:-1], CALLER + "0", CALLER + "-00", "ff" + CALLER[2:], " " + CALLER),
    *(CALLER + "\n", CALLER.replace("-", "_"), CALLER.replace("4", "g"), CALLER.replace("4", "\uff14")),
    *(f"00-{'0' * 32}-{CALLER[36:]}", f"{CALLER[:36]}{'0' * 16}-01", "x" * 100_000, "<script>", "\x1b[31m"),
]
NO_TEXTS: list[Any] = [None, 5, True, [CALLER], {"traceparent": CALLER}]


@pytest.mark.parametrize("text", [*HOSTILE, *NO_TEXTS])
def test_what_is_no_traceparent_is_as_if_there_were_none(text: object) -> None:
    assert checked(text) == ""
    body = json.dumps({"name": "order/placed", "traceparent": text}).encode()
    assert event_from_json(body).traceparent == ""
    assert event_from_json(body, traceparent=OTHER).traceparent == OTHER


def test_a_traceparent_is_kept_as_this_version_writes_it() -> None:
    assert checked(CALLER) == CALLER
    assert checked(f"cc-{CALLER[3:]}-what-the-future-adds") == CALLER
    assert checked(CALLER[:-2] + "ff") == CALLER[:-2] + "03", "flags that nobody knows are not handed on"
    assert checked(CALLER[:-2] + "00") == CALLER[:-2] + "00"


def test_ids_of_spans_are_those_of_the_specification() -> None:
    made = [own_span("run", "", sampled=True), own_span("run", CALLER, sampled=False)]
    made += [attempt_span(made[1], "run", "0/a#1", attempt) for attempt in (1, 2)]
    assert [checked(one) for one in made] == made
    assert len({one[36:52] for one in made}) == 3
    assert [trace_id(one) for one in made[1:]] == [trace_id(CALLER)] * 3


def test_records_of_the_topic_of_events() -> None:
    header = {"traceparent": OTHER}
    plain = {"name": "order/placed"}
    assert event_of(Record(plain, header)).traceparent == OTHER
    assert event_of(Record(plain | {"traceparent": CALLER}, header)).traceparent == CALLER
    assert event_of(Record(STRUCTURED, header)).traceparent == OTHER
    assert event_of(Record(STRUCTURED | {"traceparent": CALLER}, header)).traceparent == CALLER
    assert event_of(Record({}, BINARY | header)).traceparent == OTHER
    assert event_of(Record({}, BINARY | header | {"ce_traceparent": CALLER})).traceparent == CALLER
    for text in HOSTILE:
        assert event_of(Record(plain, {"traceparent": text})).traceparent == ""
    assert event_of(Record(STRUCTURED | {"traceparent": 5}, header)).traceparent == OTHER


async def test_events_and_calls_over_http(port: FakePort) -> None:
    async with client_of(port) as client:
        events = [{"name": "a"}, {"name": "b", "traceparent": CALLER}]
        for given in ({"traceparent": OTHER}, {"traceparent": "<script>"}, {}):
            answer = await client.post("/e/key", json=events, headers=given)
            assert answer.status_code == 200
        twice = [("traceparent", OTHER), ("traceparent", CALLER)]
        await client.post("/e/key", json={"name": "a"}, headers=twice)
        await client.post("/v1/functions/mail/runs", json={}, headers={"traceparent": OTHER})
    assert [event.traceparent for event in port.events] == [OTHER, CALLER, "", CALLER, "", CALLER, ""]
    assert [one.traceparent for one in port.enqueued] == [OTHER]


@pytest.mark.parametrize("kind", [HttpPort, InThread])
async def test_clients_over_http_carry_it(kind: Callable[[str], Any], port: FakePort) -> None:
    async with served(port) as url:
        client = kind(url)
        await client.send([EventBody("1", "a", Raw(b"{}"), traceparent=CALLER)])
        await client.enqueue(Enqueue("mail", Raw(b"[[],{}]"), traceparent=CALLER))
        await client.close()
    assert [event.traceparent for event in port.events] == [CALLER]
    assert [request.traceparent for request in port.enqueued] == [CALLER]


def test_what_is_sent_below_a_span_of_the_program_carries_it(provide: Provide) -> None:
    spans = provide()
    assert event_body(Event("a", {}), "1").traceparent == ""
    with trace.get_tracer_provider().get_tracer("shop").start_as_current_span("GET /checkout"):
        body = event_body(Event("a", {}), "1")
    (span,) = spans()
    context = span.get_span_context()
    assert context is not None
    assert body.traceparent[:52] == f"00-{context.trace_id:032x}-{context.span_id:016x}"
    assert checked(body.traceparent) == body.traceparent


async def test_a_run_without_spans_hands_on_what_it_was_given() -> None:
    """To its steps, the runs that it calls, and what any of them sends: traces go on behind it."""
    app = App("shop")
    given: dict[str, str] = {}

    @app.step
    async def tell() -> None:
        given["step"] = event_body(Event("a", {}), "1").traceparent

    @app.background
    async def deliver(ctx: Context) -> None:
        await tell()
        await ctx.send("order/done", {})

    @app.function(on="order/placed")
    async def order(ctx: Context, event: Event) -> None:
        await deliver.call()

    @app.function(on="order/done")
    async def thank(ctx: Context, event: Event) -> None:
        given["run"] = event_body(Event("a", {}), "1").traceparent

    async with TestEngine(app) as engine:
        await engine.port.send([EventBody("o-1", "order/placed", Raw(b"{}"), traceparent=CALLER)])
        await engine.finish()
    assert given == {"step": CALLER, "run": CALLER}


async def test_nothing_of_opentelemetry_is_imported_unless_it_is_asked_for() -> None:
    program = """
import asyncio, sys
from perdure import App, Context, Engine, Event
app = App("shop")

@app.step
async def charge() -> None: ...

@app.background
async def flow(ctx: Context) -> None:
    await charge()
    await ctx.send("order/done", {})

async def main() -> None:
    async with Engine(app, log="memory://"):
        await flow.call()

asyncio.run(main())
print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr


async def test_tracing_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "perdure_connectors.otel", None)
    with pytest.raises(DefinitionError, match=r"pip install 'perdure\[otel\]'"):
        async with Engine(App("shop"), log="memory://", tracing=True):
            pass


async def test_tracing_without_a_provider_says_so_and_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    app = App("shop")

    @app.background
    async def flow() -> int:
        return 7

    with caplog.at_level(logging.WARNING, "perdure.otel"):
        async with Engine(app, log="memory://", tracing=True):
            assert await flow.call() == 7
    assert [record.message[:44] for record in caplog.records] == ["tracing is on, but nobody takes spans: set a"]


@pytest.mark.parametrize(
    ("setting", "code", "on"), [("on", None, True), ("off", None, False), ("", None, False), ("on", False, False)]
)
async def test_the_setting(
    setting: str, code: bool | None, on: bool, monkeypatch: pytest.MonkeyPatch, provide: Provide
) -> None:
    spans = provide()
    monkeypatch.setenv("PERDURE_TRACING", setting)
    app = App("shop")

    @app.background
    async def flow() -> None:
        pass

    async with Engine(app, log="memory://", tracing=code):
        await flow.call()
    assert [span.name for span in spans()] == (["flow"] if on else [])


def test_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_TRACING", "loud")
    with pytest.raises(DefinitionError, match="PERDURE_TRACING='loud': on or off is needed"):
        Engine(App("shop"), log="memory://")
