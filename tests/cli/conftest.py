"""The command line against a fake engine on a socket."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perdure.cli import main
from tests.http.fake_port import FakePort
from tests.http.serving import served

Perdure = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings but a test's own."""
    for name in ("URL", "LOG", "PORT", "HOST", "PARTITIONS", "APP", "KEYS", "API_KEY", "HISTORY"):
        monkeypatch.delenv(f"PERDURE_{name}", raising=False)
        monkeypatch.delenv(f"PERDURE_{name}_FILE", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def port() -> FakePort:
    return FakePort()


@pytest.fixture
async def perdure(port: FakePort, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Perdure]:
    """`await perdure("runs", "list")`, in a thread beside the loop that serves."""
    async with served(port) as url:
        monkeypatch.setenv("PERDURE_URL", url)

        async def call(*args: str, stdin: bytes | None = None) -> Result:
            return await asyncio.to_thread(CliRunner().invoke, main, list(args), stdin)

        yield call
