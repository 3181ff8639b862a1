"""`perdure serve`."""

import click

from perdure.cli.command import json_option, keys_option
from perdure.cli.history.places import history_option, retention_option
from perdure.cli.listening import check_guarded, listen
from perdure.cli.settings import AppArgument, Setting
from perdure.cli.stderr_log import logging_options
from perdure.sdk.keys import Keyring


def engine_options(command: click.decorators.FC) -> click.decorators.FC:
    """What `dev` and `serve` have in common."""
    for option in (
        click.option("--host", cls=Setting, default="127.0.0.1", show_default=True, help="Where to listen."),
        click.option("--port", cls=Setting, type=click.IntRange(0, 65535), default=8288, show_default=True),
        click.option("--log", cls=Setting, default="embedded://.perdure", show_default=True, help="URL, or a folder."),
        click.option(
            "--partitions",
            cls=Setting,
            type=click.IntRange(1, 1024),
            default=4,
            show_default=True,
            help="Fixed when the log is made.",
        ),
        click.option(
            "--retention",
            cls=Setting,
            help="How long people find in the log what the engine needs no more: 30d, or forever.  [default: 7d]",
        ),
        history_option,
        click.option("--no-history", is_flag=True, help="Keep no runs for search."),
        retention_option,
        click.argument("app", cls=AppArgument, metavar="MODULE:APP"),
    ):
        command = option(command)
    return command


def log_url(log: str, retention: str | None = None) -> str:
    """A folder is an embedded log. What its URL says of the retention counts more than the setting."""
    url = log if "://" in log else f"embedded://{log}"
    return f"{url}?retention={retention}" if retention and url.startswith("embedded://") and "?" not in url else url


@click.command()
@engine_options
@keys_option
@logging_options
@json_option
def serve(
    app: str,
    log: str,
    partitions: int,
    retention: str | None,
    host: str,
    port: int,
    history: str,
    no_history: bool,
    history_retention: str | None,
    keys: Keyring,
    as_json: bool,
) -> None:
    """Run the app with its gateway, for production on one machine.

    SIGTERM or Ctrl-C drains and stops; a second one stops at once. Nothing is lost by either, or by a crash. Where
    other machines reach it (--host 0.0.0.0) it needs keys.
    """
    # What an engine needs is imported here: `perdure send` must not wait for it.
    from perdure.cli.banner import announce, say
    from perdure.cli.orders import Ready, Served
    from perdure.cli.running import run

    def ready(what: Ready) -> None:
        announce(what, note=f"{app}, as it is now: restart to take changes", as_json=as_json)

    listener = listen(check_guarded(host, keys), port)
    with listener:
        run(
            Served(app, log_url(log, retention), partitions, None if no_history else history, history_retention),
            listener,
            ready,
            lambda: say("stopping: once more to stop at once", as_json=as_json),
            keys,
        )
