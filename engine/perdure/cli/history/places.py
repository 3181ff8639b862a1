"""Where an app's history lies, and for how long."""

from pathlib import Path

from perdure.cli.exits import UsageProblem
from perdure.duration import parse_ms
from perdure.errors import DefinitionError
from perdure.history.projector import RETENTION_MS
from perdure.history.sqlite import FILE


def place_of(log: str, app: str) -> Path | None:
    """In the data directory of the log. None for a log in memory, which nobody looks at later."""
    if log.startswith("memory://"):
        return None
    if log.startswith("kafka://"):
        from perdure.log.kafka import parse

        address = parse(log)
        return Path(address.data) / f"{address.topic(app)}.{FILE}"
    return Path(log.removeprefix("embedded://").partition("?")[0]) / FILE


def retention_ms(text: str | None) -> int | None:
    """None for ever. Raises `UsageProblem`."""
    if text is None:
        return RETENTION_MS
    if text == "forever":
        return None
    try:
        return parse_ms(text, what="--history-retention", positive=True)
    except DefinitionError as error:
        raise UsageProblem(f"{error}, or forever") from None
