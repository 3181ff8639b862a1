"""`perdure keys new`, and commands that send or ask for keys."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from perdure.cli import main
from perdure.sdk.keys import Keyring, new_key
from tests.cli.conftest import Perdure
from tests.http.fake_port import FakePort
from tests.http.serving import served

GATEWAY = ["gateway", "shop:app", "--log", "kafka://localhost:1"]
WORKER = ["worker", "shop:app", "--log", "kafka://localhost:1", "--health-port", "0"]


def test_a_key_is_printed_with_its_line() -> None:
    done = CliRunner().invoke(main, ["keys", "new", "web", "--scope", "send", "--scope", "read", "--json"])
    made = json.loads(done.output)
    grant = Keyring.parse(made["line"]).find(made["key"])
    assert grant is not None
    assert (grant.name, sorted(grant.scopes)) == ("web", ["read", "send"])
    people = CliRunner().invoke(main, ["keys", "new", "--scope", "operate"]).output
    key, line = (text.strip() for text in people.splitlines() if text.startswith("  "))
    assert Keyring.parse(line).find(key) is not None
    assert "PERDURE_API_KEY" in people
    assert "PERDURE_KEYS" in people


@pytest.mark.parametrize("args", [["web"], ["web", "--scope", "all"], ["a b", "--scope", "send"]])
def test_keys_that_cannot_be(args: list[str]) -> None:
    assert CliRunner().invoke(main, ["keys", "new", *args]).exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "shop:app", "--port", "0", "--host", "0.0.0.0"],
        [*GATEWAY, "--port", "0", "--host", "::"],
        [*WORKER, "--health-host", "::"],
    ],
)
def test_other_machines_need_keys(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "`perdure keys new` makes one" in done.output
    # With keys it comes as far as its app, which is not there.
    monkeypatch.setenv("PERDURE_KEYS", new_key(["send"])[1].line())
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "`perdure keys new`" not in done.output
    assert "shop" in done.output


def test_where_the_keys_of_an_engine_come_from(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(*args: str) -> bool:
        done = CliRunner().invoke(main, ["serve", "shop:app", "--host", "0.0.0.0", "--port", "0", *args])
        assert done.exit_code == 2
        return "there are no keys" not in done.output

    line = new_key(["send"])[1].line()
    assert not passes()
    clean.joinpath("perdure.toml").write_text(f'keys = """\n{line}\n"""\n')
    assert passes()
    clean.joinpath("perdure.toml").write_text('keys = "@lines"\n')
    clean.joinpath("lines").write_text(line)
    assert passes()
    clean.joinpath("perdure.toml").unlink()
    assert passes("--keys", "@lines")
    monkeypatch.setenv("PERDURE_KEYS_FILE", "lines")
    assert passes()
    clean.joinpath("lines").write_text("\n")
    assert "the file is empty" in CliRunner().invoke(main, ["serve", "shop:app", "--port", "0"]).output


def test_a_key_in_the_place_of_its_line_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = new_key(["send"])
    monkeypatch.setenv("PERDURE_KEYS", key)
    done = CliRunner().invoke(main, ["serve", "shop:app", "--port", "0"])
    assert done.exit_code == 2
    assert "this is a key itself" in done.output
    assert key not in done.output + done.stderr


async def test_commands_send_the_key(port: FakePort, perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    key, grant = new_key(["send"], "web")
    port.add("r1")
    async with served(port, keys=Keyring([grant])) as url:
        monkeypatch.setenv("PERDURE_URL", url)
        refused = await perdure("send", "a")
        monkeypatch.setenv("PERDURE_API_KEY", key)
        assert (await perdure("send", "a")).exit_code == 0
        forbidden = await perdure("runs", "list", "--json")
        monkeypatch.setenv("PERDURE_API_KEY", "a b")
        assert (await perdure("send", "a")).exit_code == 2
    assert refused.exit_code == forbidden.exit_code == 1
    assert "PERDURE_API_KEY" in refused.output
    assert json.loads(forbidden.stdout)["error"]["type"] == "ScopeMissing"
    assert key not in forbidden.output


def test_a_head_that_does_not_end_is_cut_off(clean: Path) -> None:
    """Of the server that the commands run: headers stay in memory until the last has come."""
    clean.joinpath("shop.py").write_text("from perdure import App\napp = App('shop')\n")
    command = [sys.executable, "-m", "perdure", "serve", "shop:app", "--port", "0", "--log", "memory://", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as engine:
        try:
            assert engine.stdout is not None
            ready = json.loads(engine.stdout.readline())["ready"]
            with socket.create_connection(("127.0.0.1", int(ready["url"].rpartition(":")[2]))) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-long: ")
                sent = 0
                try:
                    while sent < 64 << 20:
                        sent += connection.send(b"x" * 65_536)
                except ConnectionError:
                    pass
            assert sent < 64 << 20
        finally:
            engine.terminate()
