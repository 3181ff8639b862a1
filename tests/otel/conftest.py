"""A provider that keeps spans in memory, as a program would set it."""

from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from tests.http.fake_port import FakePort

Seen = Callable[[], list[ReadableSpan]]
Provide = Callable[..., Seen]


@pytest.fixture
def port() -> FakePort:
    return FakePort()


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provide]:
    """Sets a provider, and gives what shows the spans that it got. A process may set one only once: so, by hand."""
    providers: list[TracerProvider] = []

    def set_up(sampler: Sampler | None = None) -> Seen:
        provider, exporter = TracerProvider(sampler=sampler), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        providers.append(provider)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
        return lambda: list(exporter.get_finished_spans())

    yield set_up
    for provider in providers:
        provider.shutdown()
