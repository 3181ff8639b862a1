"""The exported JSON Schema files are those of the structs as they are now."""

import pytest

from perdure_schemas.export import FOLDER, documents


@pytest.mark.parametrize("name", sorted(documents()))
def test_exported_schema_is_current(name: str) -> None:
    """A stale file means that the wire changed: export it again, and look at what changed."""
    stored = (FOLDER / name).read_text(encoding="utf-8")
    assert stored == documents()[name], f"{name} is stale: run `python -m perdure_schemas.export`"
