"""`module:app`, and what is said if it is not quite that."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from perdure import App
from perdure.cli import main
from perdure.cli.exits import UsageProblem
from perdure.cli.loading import BrokenApp, load_app, outside_folders
from perdure.errors import DefinitionError


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Modules of one test are unknown to the next."""
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = path


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


GOOD = "from perdure import App\napp = App('shop')\nother = 5\n"


def test_an_app_is_found(clean: Path) -> None:
    write(clean, "goods.py", GOOD)
    write(clean, "pack/inner.py", GOOD)
    assert isinstance(load_app("goods:app"), App)
    assert isinstance(load_app("pack.inner:app"), App)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("goods", "did you mean goods:app?"),
        ("goods.py", "did you mean goods:app?"),
        ("pack/inner.py:app", "did you mean pack.inner:app?"),
        ("./goods.py:app", "did you mean goods:app?"),
        ("a b:app", "say module:app"),
        ("goods:", "did you mean goods:app?"),
        ("goods:ap", "there is none of that name; did you mean goods:app?"),
        ("goods:other", "it is a int, not a perdure.App; did you mean goods:app?"),
        ("empty:app", "empty has no App: write app = App('empty')"),
        ("gods:app", "did you mean 'goods'?"),
        ("pack.iner:app", "did you mean 'inner'?"),
        ("zzz:app", "it has empty, goods"),
    ],
)
def test_what_was_mistyped(clean: Path, target: str, words: str) -> None:
    write(clean, "goods.py", GOOD)
    write(clean, "empty.py", "")
    write(clean, "pack/inner.py", GOOD)
    with pytest.raises(UsageProblem) as caught:
        load_app(target)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("def f(:\n", "SyntaxError"),
        ("\n\n1 / 0", "line 3"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_fails_shows_its_own_frames(clean: Path, text: str, words: str) -> None:
    write(clean, "broken.py", text)
    with pytest.raises(BrokenApp) as caught:
        load_app("broken:app")
    assert words in str(caught.value)
    assert "broken.py" in str(caught.value)
    assert "importlib" not in str(caught.value)
    assert "perdure/cli" not in str(caught.value)


def test_an_app_that_is_defined_wrong_says_so(clean: Path) -> None:
    write(clean, "wrong.py", "from perdure import App\napp = App('a b c/')\n")
    with pytest.raises(DefinitionError, match="App name"):
        load_app("wrong:app")


def test_folders_outside_are_watched_as_well(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere, "helper_of_goods.py", "")
    write(elsewhere, "deep/er.py", "")
    sys.path.insert(0, str(elsewhere))
    write(clean, "goods.py", "import helper_of_goods, deep.er\n" + GOOD)
    load_app("goods:app")
    found = outside_folders(clean)
    assert str(elsewhere) in found
    assert str(elsewhere / "deep") not in found
    assert str(clean) not in found


@pytest.mark.parametrize("command", ["serve", "dev"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_other_machines_are_kept_out(clean: Path, command: str, host: str) -> None:
    done = CliRunner().invoke(main, [command, "goods:app", "--host", host])
    assert done.exit_code == 2
    assert "for this machine alone" in done.output if command == "dev" else "`perdure keys new`" in done.output


def test_serve_says_what_is_wrong_with_the_app(clean: Path) -> None:
    assert CliRunner().invoke(main, ["serve", "zzz:app", "--port", "0"]).exit_code == 2
    assert CliRunner().invoke(main, ["serve"]).exit_code == 2
