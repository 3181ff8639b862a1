"""Settings: flag > `PERDURE_*` > `perdure.toml` or `[tool.perdure]` in the current folder > default."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import click

from perdure.cli.exits import UsageProblem
from perdure.errors import DefinitionError
from perdure.sdk import environment

NAMES = (
    *("app", "url", "log", "host", "port", "partitions", "retention", "history", "history_retention"),
    *("keys", "log_format", "run_logs", "tracing"),
)
"""All that a file can set, for every command that has the option."""

TABLES = ("webhooks", "notify", "redact")
"""What a file can set besides: tables, which whoever needs them reads."""


class Setting(click.Option):
    """An option that is also read from `PERDURE_<NAME>`, or from the file that `PERDURE_<NAME>_FILE` names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.envvar = env_name(str(self.name))

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value of the variable, else the content of the file."""
        return super().resolve_envvar_value(ctx) or from_file_variable(str(self.envvar))


class AppArgument(click.Argument):
    """`module:app`, which a file or `PERDURE_APP` may give as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.envvar = "PERDURE_APP"


def env_name(option: str) -> str:
    """`PERDURE_LOG` for `log`."""
    return f"PERDURE_{option.upper()}"


def file_settings(folder: Path) -> dict[str, Any]:
    """`perdure.toml` whole, else `[tool.perdure]` of `pyproject.toml`, else nothing."""
    own = folder / "perdure.toml"
    if own.exists():
        return _checked(_toml(own), own)
    project = folder / "pyproject.toml"
    if not project.exists():
        return {}
    tools: dict[str, Any] = _toml(project).get("tool", {})
    return _checked(tools.get("perdure", {}), project)


def defaults_for(group: click.Group, settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings for every command, nested as click looks them up."""
    return {
        name: defaults_for(command, settings) if isinstance(command, click.Group) else settings
        for name, command in group.commands.items()
    }


def from_file_variable(name: str) -> str | None:
    """What stands in the file that `<name>_FILE` names. Raises `UsageProblem` if that cannot be."""
    try:
        return environment.from_file_variable(name)
    except DefinitionError as error:
        raise UsageProblem(str(error)) from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageProblem(f"{path}: {error}") from None


def _checked(settings: Any, path: Path) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise UsageProblem(f"{path}: perdure is a table: write [tool.perdure]")
    for name, value in cast("dict[str, Any]", settings).items():
        if name in TABLES:
            continue
        if name not in NAMES:
            close = get_close_matches(name, (*NAMES, *TABLES), 1)
            raise UsageProblem(
                f"{path}: there is no setting {name!r}: "
                + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join((*NAMES, *TABLES))}")
            )
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise UsageProblem(f"{path}: {name} must be a text or a number")
    return cast("dict[str, Any]", settings)
