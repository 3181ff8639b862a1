"""The wire contract as JSON Schema, for readers that are not Python: `python -m perdure_schemas.export`.

The files are made from the structs and kept in the repository, so that a change of the wire shows in review.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from perdure_schemas.event import EventBody
from perdure_schemas.records import AnyLogged, AnyRecord, StepCommand

FOLDER = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def journal_schema() -> dict[str, Any]:
    """One schema for every record of a journal; `kind` tells which of them it is."""
    return {"$schema": DIALECT, "title": "Perdure journal record", **msgspec.json.schema(AnyRecord)}


def event_schema() -> dict[str, Any]:
    """An event as the `events` topic and the journal carry it."""
    return {"$schema": DIALECT, "title": "Perdure event", **msgspec.json.schema(EventBody)}


def commands_schema() -> dict[str, Any]:
    """What the commands topic of a queue carries."""
    return {"$schema": DIALECT, "title": "Perdure command", **msgspec.json.schema(StepCommand)}


def logs_schema() -> dict[str, Any]:
    """What the logs topic carries: lines and progress of runs."""
    return {"$schema": DIALECT, "title": "Perdure log line or progress", **msgspec.json.schema(AnyLogged)}


def documents() -> dict[str, str]:
    """File name → text. Deterministic: the order is that of the definitions."""
    schemas = {
        "journal.schema.json": journal_schema(),
        "event.schema.json": event_schema(),
        "commands.schema.json": commands_schema(),
        "logs.schema.json": logs_schema(),
    }
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


def main() -> None:
    """Write the files beside this module."""
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
