"""Settings from the environment, for who has no command line."""

import os
from pathlib import Path

from perdure.errors import DefinitionError


def from_environment(name: str) -> str:
    """`PERDURE_KEYS`, else what stands in the file that `PERDURE_KEYS_FILE` names; empty without both."""
    return os.environ.get(name) or from_file_variable(name) or ""


def from_file_variable(name: str) -> str | None:
    """What stands in the file that `<name>_FILE` names: how orchestrators hand over secrets."""
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    return read_text(path, f"{name}_FILE={path}")


def read_text(path: str, what: str) -> str:
    """Raises `DefinitionError` for what cannot be read, and for what is empty: a secret that is not there yet."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        # Of an error of decoding the reason alone: the rest would show some of the content.
        why = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise DefinitionError(f"{what}: cannot be read ({why}): mend the path, or leave it out") from None
    if not text:
        raise DefinitionError(f"{what}: the file is empty: write the value into it, or leave it out")
    return text
