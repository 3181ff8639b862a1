"""What all commands share: settings, `--json`, `--url`, and errors that end in an exit code."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from perdure.cli import exits
from perdure.cli.exits import UsageProblem
from perdure.cli.output import print_error
from perdure.cli.settings import Setting, defaults_for, file_settings
from perdure.errors import DefinitionError, PerdureError
from perdure.sdk.http_sync import SyncHttpPort
from perdure.sdk.keys import Keyring, api_key

F = TypeVar("F", bound=Callable[..., Any])
JSON = "perdure.json"

REACH_S = 1.5
"""Long enough for `perdure dev` to reload, short enough for somebody who looks at a prompt."""


class Main(click.Group):
    """Loads the settings file, and turns errors into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. Exits with the code of the `PerdureError` that it raised."""
        try:
            ctx.default_map = defaults_for(self, file_settings(Path.cwd()))
            return super().invoke(ctx)
        except PerdureError as error:
            print_error(error, as_json=bool(ctx.meta.get(JSON)))
            ctx.exit(exits.code_of(error))
        except KeyboardInterrupt:
            ctx.exit(exits.KILLED)
        except BrokenPipeError:
            # `perdure runs list | head` is no failure. Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(exits.OK)


def json_option(command: F) -> F:
    """`--json`: one JSON value on standard output, errors too."""

    def remember(ctx: click.Context, option: click.Parameter, value: bool) -> bool:
        ctx.meta[JSON] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Print JSON, for programs."
    )(command)


def keys_option(command: F) -> F:
    """`--keys`, for commands that answer."""
    return click.option(
        "--keys",
        cls=Setting,
        default="",
        callback=_keyring,
        metavar="@FILE",
        help="API keys that may ask, as `perdure keys new` prints them. Without any, only this machine may.",
    )(command)


def _keyring(ctx: click.Context, option: click.Parameter, value: str) -> Keyring:
    try:
        return Keyring.parse(value)
    except DefinitionError as error:
        raise UsageProblem(str(error)) from None


def client_options(command: F) -> F:
    """`--url` and `--json`, for commands that ask a running engine."""
    url = click.option("--url", cls=Setting, help="Address of the engine [http://127.0.0.1:8288].")
    return json_option(url(command))


def port_at(ctx: click.Context, url: str | None) -> SyncHttpPort:
    """The engine at `url`; without one, that of this machine at the port that `dev` and `serve` would take.

    The API key comes from `PERDURE_API_KEY` or its file, and from no option: what is typed, all processes can read.
    """
    if url is None:
        settings = ctx.find_root().default_map or {}
        number = os.environ.get("PERDURE_PORT") or settings.get("send", {}).get("port") or 8288
        url = f"http://127.0.0.1:{number}"
    port = SyncHttpPort(url, reach=REACH_S, key=_api_key())
    ctx.call_on_close(port.close)
    return port


def _api_key() -> str:
    try:
        return api_key()
    except DefinitionError as error:
        raise UsageProblem(str(error)) from None
