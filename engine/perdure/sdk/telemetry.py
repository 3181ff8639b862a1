"""OpenTelemetry, where it is asked for: without that nothing of it is imported."""

from perdure.errors import DefinitionError
from perdure.worker.tracing import Tracing


def is_on(tracing: bool | None, setting: str) -> bool:
    """What the code says, else the setting. Raises `DefinitionError`."""
    if tracing is None and setting not in ("on", "off"):
        raise DefinitionError(f"PERDURE_TRACING={setting[:40]!r}: on or off is needed")
    return setting == "on" if tracing is None else tracing


def tracing_of(app: str) -> Tracing | None:
    """Who makes spans of the app's runs; None where nobody would take them. Raises `DefinitionError`."""
    try:
        from perdure_connectors.otel import spans_of
    except ImportError as error:
        raise DefinitionError(f"tracing needs OpenTelemetry ({error}): pip install 'perdure[otel]'") from None
    return spans_of(app)
