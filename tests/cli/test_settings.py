"""Flag > environment > file > default."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from perdure.cli import main
from perdure.cli.command import Main, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.serve import engine_options, log_url
from perdure.cli.settings import file_settings


def asked(args: list[str]) -> dict[str, Any]:
    """What a command with the engine's options gets."""
    got: dict[str, Any] = {}

    @click.command("serve")
    @engine_options
    @click.pass_context
    def serve(ctx: click.Context, /, **options: Any) -> None:
        got.update(options)

    done = CliRunner().invoke(Main(commands=[serve]), ["serve", *args])
    assert done.exit_code == 0, done.output
    return got


def test_defaults() -> None:
    assert asked(["shop:app"]) == {
        "app": "shop:app",
        "host": "127.0.0.1",
        "port": 8288,
        "log": "embedded://.perdure",
        "partitions": 4,
        "retention": None,
        "history": "",
        "no_history": False,
        "history_retention": None,
    }


def test_each_source_beats_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("pyproject.toml").write_text('[tool.perdure]\napp = "shop:app"\nport = 1\npartitions = 8\n')
    assert asked([])["app"] == "shop:app"
    assert (asked([])["port"], asked([])["partitions"]) == (1, 8)
    tmp_path.joinpath("perdure.toml").write_text('app = "shop:app"\nport = 2\n')
    assert (asked([])["port"], asked([])["partitions"]) == (2, 4)
    secret = tmp_path / "port"
    secret.write_text("3\n")
    monkeypatch.setenv("PERDURE_PORT_FILE", str(secret))
    assert asked([])["port"] == 3
    monkeypatch.setenv("PERDURE_PORT", "4")
    assert asked([])["port"] == 4
    assert asked(["--port", "5"])["port"] == 5
    monkeypatch.setenv("PERDURE_APP", "other:app")
    assert asked([])["app"] == "other:app"
    assert asked(["third:app"])["app"] == "third:app"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("perdure.toml", "prt = 1", "did you mean 'port'?"),
        ("perdure.toml", "secret = 1", "there are app, url, log"),
        ("perdure.toml", "port = [1]", "port must be a text or a number"),
        ("perdure.toml", "port =", "perdure.toml: "),
        ("pyproject.toml", "[tool]\nperdure = 1", "perdure is a table"),
    ],
)
def test_files_that_cannot_be_right(tmp_path: Path, name: str, text: str, words: str) -> None:
    tmp_path.joinpath(name).write_text(text)
    with pytest.raises(UsageProblem, match=words):
        file_settings(tmp_path)
    assert CliRunner().invoke(main, ["functions"]).exit_code == 2


def test_a_file_variable_that_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_URL_FILE", "/nowhere")
    done = CliRunner().invoke(main, ["functions"])
    assert done.exit_code == 2
    assert "PERDURE_URL_FILE=/nowhere" in done.output


def test_clients_ask_the_port_that_dev_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with click.Context(click.Command("functions")) as ctx:
        assert port_at(ctx, None).base == "http://127.0.0.1:8288"
        ctx.default_map = {"send": {"port": 9000}}
        assert port_at(ctx, None).base == "http://127.0.0.1:9000"
        monkeypatch.setenv("PERDURE_PORT", "9001")
        assert port_at(ctx, None).base == "http://127.0.0.1:9001"
        assert port_at(ctx, "http://localhost:1").base == "http://localhost:1"


def test_a_folder_is_an_embedded_log() -> None:
    assert log_url("data/log") == "embedded://data/log"
    assert log_url("/var/lib/shop") == "embedded:///var/lib/shop"
    assert log_url("memory://") == log_url("memory://", "1d") == "memory://"
    assert log_url("data", "30d") == "embedded://data?retention=30d"
    assert log_url("embedded://data?retention=1d", "30d") == "embedded://data?retention=1d"
