"""Each test has databases of its own, and at its end each of its runs is replayed."""

from pathlib import Path

import pytest

from perdure import testing
from tests.past.replays import check_replays


@pytest.fixture(autouse=True)
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples of this test keep their data."""
    monkeypatch.setenv("CONTACTS_DB", str(tmp_path / "contacts.db"))
    monkeypatch.setenv("ORDERS_DB", str(tmp_path / "orders.db"))
    monkeypatch.setenv("ONBOARDING_DATA", str(tmp_path / "onboarding"))
    return tmp_path


@pytest.fixture(autouse=True)
def replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has happened in an engine is replayed before it closes: all as recorded. Not every test here has one."""
    close = testing.TestEngine._close

    async def replay_and_close(engine: testing.TestEngine) -> None:
        await check_replays(engine)
        await close(engine)

    monkeypatch.setattr(testing.TestEngine, "_close", replay_and_close)
