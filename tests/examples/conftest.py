"""Each test has databases of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples of this test keep their data."""
    monkeypatch.setenv("CONTACTS_DB", str(tmp_path / "contacts.db"))
    monkeypatch.setenv("ORDERS_DB", str(tmp_path / "orders.db"))
    monkeypatch.setenv("ONBOARDING_DATA", str(tmp_path / "onboarding"))
    return tmp_path
