"""Every test of a store holds for each kind of it."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.history.tools import PostgresShelf, Shelf, SqliteShelf


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Shelf]:
    if request.param == "sqlite":
        yield SqliteShelf(tmp_path)
        return
    shelf = PostgresShelf(request.getfixturevalue("postgres"))
    yield shelf
    shelf.clear()
