"""Spans of a process as users start it: from a traceparent over HTTP, across a SIGKILL, to the exporter."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.otel.spans import CALLER
from tests.system.engine_process import EngineProcess, wait_until

SHOP = """
import logging

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from perdure import App, Context, Event

provider = TracerProvider()
lines = ConsoleSpanExporter(out=open("spans.jsonl", "a"), formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(lines))
trace.set_tracer_provider(provider)
app = App("shop")


@app.step
def charge() -> None:
    logging.getLogger("shop").warning("charging")


@app.step
async def ship() -> None: ...


@app.function(on="order/placed", waits=["order/paid"])
async def order(ctx: Context, event: Event) -> None:
    await charge()
    await ctx.wait_for_event("order/paid", timeout="1d")
    await ship()
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    engine = EngineProcess(tmp_path, "serve", "shop:app", "--log", "log", "--tracing", "on")
    engine.start()
    yield engine
    engine.end()


def test_a_trace_goes_through_the_engine_and_its_death(engine: EngineProcess) -> None:
    body = json.dumps({"name": "order/placed", "id": "o-1"}).encode()
    headers = {"traceparent": CALLER, "content-type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{engine.port}/e/key", body, headers)).close()
    wait_until(lambda: spans(engine, "charge"), "to charge", engine)
    said = next(json.loads(line) for line in engine.lines() if '"charging"' in line)
    assert said["trace_id"] == CALLER[3:35]
    engine.kill()
    engine.start()
    engine.ask("/e/key", {"name": "order/paid"})
    wait_until(lambda: spans(engine, "order"), "to end the run", engine)
    (order,) = spans(engine, "order")
    assert order["parent_id"] == f"0x{CALLER[36:52]}"
    assert order["context"]["trace_id"] == f"0x{CALLER[3:35]}"
    # That of the step may have come twice, since its process died; with the same ids.
    for name in ("charge", "ship"):
        found = {json.dumps([span["context"], span["parent_id"]]) for span in spans(engine, name)}
        (one,) = [json.loads(text) for text in found]
        assert one == [order["context"] | {"span_id": one[0]["span_id"]}, order["context"]["span_id"]]


def spans(engine: EngineProcess, name: str) -> list[dict[str, Any]]:
    """Those of the name that were exported by now."""
    whole, _, _ = engine.folder.joinpath("spans.jsonl").read_text().rpartition("\n")
    return [span for span in map(json.loads, whole.splitlines()) if span["name"] == name]
