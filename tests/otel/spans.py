"""What the tests say of spans."""

from opentelemetry.sdk.trace import ReadableSpan

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""The example of the specification."""
Shape = set[tuple[str, int, int, int]]
"""Name, trace, id and parent of each span."""
TRACE, SPAN = int(CALLER[3:35], 16), int(CALLER[36:52], 16)


def id_of(span: ReadableSpan) -> int:
    """Its span id."""
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> int:
    """The trace that it is of."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def parent_of(span: ReadableSpan) -> int:
    """Its parent's span id; 0 for a root."""
    return 0 if span.parent is None else span.parent.span_id


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    """Those of the name, as they came."""
    return [span for span in spans if span.name == name]


def one(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    """The only one of the name."""
    (found,) = named(spans, name)
    return found


def shape(spans: list[ReadableSpan]) -> Shape:
    """Who is below whom, by ids; what was sent twice counts once."""
    return {(span.name, trace_of(span), id_of(span), parent_of(span)) for span in spans}
