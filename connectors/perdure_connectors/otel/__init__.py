"""OpenTelemetry: spans of runs and of the attempts of their steps, made of what the log says."""

from perdure_connectors.otel.spans import Spans, spans_of

__all__ = ["Spans", "spans_of"]
