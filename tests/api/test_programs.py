"""The public surface as its users' type checkers see it: right programs type clean, wrong ones are errors.

`programs/` has small programs; a line that must be an error says so by `# error: why`. Both checkers must report
exactly these lines. The programs are only read, never run.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
CONTRACT = ROOT.parent / "shared" / "api"
"""Where the README's programs come from; beside the repository on its authors' machines and in CI."""

Line = tuple[str, int]


def expected() -> set[Line]:
    """(program, line) of every marker."""
    return {
        (path.name, number)
        for path in PROGRAMS.glob("*.py")
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "# error:" in text
    }


def mypy(cache: Path) -> dict[Line, str]:
    """What mypy --strict reports. Bodies of `...` are the README's; errors of the package itself are not asked for."""
    roots = os.pathsep.join(str(ROOT / name) for name in ("engine", "connectors", "schemas"))
    options = ["--strict", "--config-file=", "--follow-imports=silent", "--disable-error-code=empty-body"]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--hide-error-context", f"--cache-dir={cache}", *sorted(_programs())],
        cwd=PROGRAMS,
        env={**os.environ, "MYPYPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    assert not ran.stderr, ran.stderr
    found = re.findall(r"^([\w.]+):(\d+): error: (.*)$", ran.stdout, flags=re.MULTILINE)
    return {(name, int(line)): message for name, line, message in found}


def pyright() -> dict[Line, str]:
    """What pyright reports in strict mode, by the configuration in the folder."""
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", str(PROGRAMS), "--pythonpath", sys.executable, "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found = json.loads(ran.stdout)["generalDiagnostics"]
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in found
        if one["severity"] == "error"
    }


def differences(found: dict[Line, str]) -> list[str]:
    """Errors that no marker asks for, and markers that no error answers."""
    wanted = expected()
    surplus = [f"{name}:{line}: {found[name, line]}" for name, line in sorted(found.keys() - wanted)]
    missing = [f"{name}:{line}: should be an error" for name, line in sorted(wanted - found.keys())]
    return surplus + missing


def test_mypy_strict_reports_exactly_the_marked_lines(tmp_path: Path) -> None:
    assert differences(mypy(tmp_path)) == []


def test_pyright_strict_reports_exactly_the_marked_lines() -> None:
    assert differences(pyright()) == []


def test_there_are_right_and_wrong_programs() -> None:
    """Both kinds are found, so that the comparison is not one of nothing with nothing."""
    marked = {name for name, _ in expected()}
    assert marked == {name for name in _programs() if name.startswith("misuse_")}
    assert len(_programs()) >= 12
    assert len(expected()) >= 40


@pytest.mark.parametrize("name", ["readme_cart.py", "readme_csv.py", "readme_saga.py"])
def test_readme_programs_are_the_contract_s(name: str) -> None:
    """Where the contract lies beside the repository, its programs and ours are the same."""
    ours = (PROGRAMS / name).read_text(encoding="utf-8")
    theirs = (CONTRACT / name).read_text(encoding="utf-8") if CONTRACT.is_dir() else ours
    assert ours == theirs


def test_readme_shows_the_cart_as_it_is_checked() -> None:
    """The first program that people see is one that type-checks."""
    program = (PROGRAMS / "readme_cart.py").read_text(encoding="utf-8").strip()
    assert program in (ROOT / "README.md").read_text(encoding="utf-8")


def _programs() -> list[str]:
    return [path.name for path in PROGRAMS.glob("*.py")]
