"""Keys and their lines."""

from pathlib import Path

import pytest

from perdure.errors import DefinitionError
from perdure.sdk.keys import PREFIX, Keyring, api_key, new_key


def test_a_line_stands_for_its_key() -> None:
    key, grant = new_key(["read", "send"], "web")
    assert grant.line().startswith("web send,read sha256:")
    assert key not in grant.line()
    found = Keyring.parse(grant.line()).find(key)
    assert found == grant
    assert Keyring.parse(grant.line()).find(key + "x") is None
    assert new_key(["read"])[1].name.startswith("key-")


def test_lines_are_read_from_texts_and_files(tmp_path: Path) -> None:
    (one, first), (two, second) = new_key(["send"], "a"), new_key(["operate"], "b")
    written = f"# of the shop\n{first.line()}  # until May\n\n  {second.line()}\n"
    tmp_path.joinpath("keys").write_text(written)
    for text in (written, f"{first.line()}; {second.line()}", f"@{tmp_path / 'keys'}"):
        ring = Keyring.parse(text)
        assert len(ring) == 2
        assert (ring.find(one), ring.find(two)) == (first, second)
    assert not Keyring.parse("")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("web send", "NAME SCOPES sha256:DIGEST"),
        ("web send sha256:12", "NAME SCOPES sha256:DIGEST"),
        (f"we<b send sha256:{'0' * 64}", "NAME SCOPES sha256:DIGEST"),
        (f"web send,sned sha256:{'0' * 64}", "scopes are send, read, operate"),
        (f"web send, read sha256:{'0' * 64}", "NAME SCOPES sha256:DIGEST"),
        (f"web send,send,all sha256:{'0' * 64}", "scopes are"),
        ("# nothing", "no line but comments"),
        ("@/nowhere/keys", "cannot be read"),
    ],
)
def test_lines_that_cannot_be_right(text: str, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        Keyring.parse(text)


def test_what_stands_in_a_wrong_line_is_not_shown() -> None:
    key, _ = new_key(["send"])
    for text in (key, f"web send {key}", f"web {key}", "hunter2"):
        with pytest.raises(DefinitionError) as caught:
            Keyring.parse(text)
        assert text not in str(caught.value)
        assert key not in str(caught.value)
    with pytest.raises(DefinitionError, match="this is a key itself"):
        Keyring.parse(f"web send {key}")


def test_a_client_finds_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERDURE_API_KEY", raising=False)
    monkeypatch.delenv("PERDURE_API_KEY_FILE", raising=False)
    assert api_key() == ""
    tmp_path.joinpath("key").write_text("perdure_file\n")
    monkeypatch.setenv("PERDURE_API_KEY_FILE", str(tmp_path / "key"))
    assert api_key() == "perdure_file"
    monkeypatch.setenv("PERDURE_API_KEY", "perdure_variable")
    assert api_key() == "perdure_variable"
    assert api_key("perdure_given") == "perdure_given"


@pytest.mark.parametrize("key", ["a b", "ключ", "a\r\nx-evil: 1", "x" * 600])
def test_what_cannot_be_a_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        api_key(key)
    assert key not in str(caught.value)


def test_an_empty_file_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that took it for no keys would answer without."""
    tmp_path.joinpath("key").write_text("\n")
    monkeypatch.delenv("PERDURE_API_KEY", raising=False)
    monkeypatch.setenv("PERDURE_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(DefinitionError, match="the file is empty"):
        api_key()


def test_keys_made_twice_differ() -> None:
    keys = {new_key(["send"])[0] for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) == len(PREFIX) + 43 for key in keys)


@pytest.mark.parametrize(("scopes", "name"), [([], "web"), (["send"], "a b"), (["send"], "-a")])
def test_keys_that_cannot_be(scopes: list[str], name: str) -> None:
    with pytest.raises(DefinitionError):
        new_key(scopes, name)  # type: ignore[arg-type]
