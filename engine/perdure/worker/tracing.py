"""Traces, after W3C Trace Context: which one a run is of, and what it hands on. That much needs no OpenTelemetry.

    event, call ──traceparent──► run ──► attempts of its steps
                                  └────► what it sends and calls carries the run's own, or its step's

Ids of spans are made of what stands in the log, so that a replay, another owner and a rebuilt store speak of the same
ones. Where nothing makes spans, a run hands on what it was given.
"""

import re
import sys
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Protocol

from perdure.flow.effects import Act
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.worker.lineage import here, in_step

_LENGTH = 55
_SHAPE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_KNOWN_FLAGS = 0x03


class Tracing(Protocol):
    """Who makes spans. What goes wrong with them is not felt by runs: nothing here raises."""

    def of_run(self, view: View, run: RunState) -> str:
        """The traceparent of the run's own span."""
        ...

    def enter(self, traceparent: str) -> object:
        """Make that span the current one of the calling context. What comes back is for `leave`."""
        ...

    def leave(self, token: object) -> None:
        """The span that was current before is so again."""
        ...

    def saw(self, view: View, acts: Iterable[Act]) -> None:
        """Attempts and runs have come to their end, in the log."""
        ...


def checked(text: object) -> str:
    """A traceparent as it is kept; nothing for what is none. Of a later version, what this one knows of it."""
    if not isinstance(text, str) or not _SHAPE.fullmatch(text, 0, _LENGTH):
        return ""
    if len(text) > _LENGTH and (text.startswith("00") or text[_LENGTH] != "-"):
        return ""
    return _written(text[3:35], text[36:52], int(text[53:_LENGTH], 16))


def trace_id(traceparent: str) -> str:
    """Of a checked one; nothing of none."""
    return traceparent[3:35]


def own_span(run: str, parent: str, *, sampled: bool) -> str:
    """The traceparent of a run's span. A run without a parent has a trace of its own."""
    return _written(trace_id(parent) or trace_of_run(run), _hash(run, 8), int(sampled))


def trace_of_run(run: str) -> str:
    """Of a run that nobody else's trace led to."""
    return _hash(run, 16)


def attempt_span(of_run: str, run: str, op: str, attempt: int) -> str:
    """The traceparent of an attempt's span, in the trace of its run's."""
    return f"{of_run[:36]}{_hash(f'{run}/{op}/{attempt}', 8)}{of_run[52:]}"


def current_traceparent() -> str:
    """What is to be carried by what is sent, called or enqueued here and now.

    The current span of OpenTelemetry, if the program uses that; else what the run that this is in was given.
    """
    otel: Any = sys.modules.get("opentelemetry.trace")
    if otel is not None:
        span = otel.get_current_span().get_span_context()
        if span.is_valid:
            return _written(f"{span.trace_id:032x}", f"{span.span_id:016x}", span.trace_flags)
    inside = in_step.get() or here.get()
    return "" if inside is None else inside.execution.traceparent


def _written(trace: str, span: str, flags: int) -> str:
    return f"00-{trace}-{span}-{flags & _KNOWN_FLAGS:02x}"


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size, person=b"perdure-span").hexdigest()
