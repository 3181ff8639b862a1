"""`perdure worker`."""

import click

from perdure.cli.command import json_option, keys_option
from perdure.cli.exits import UsageProblem
from perdure.cli.history.places import history_option, retention_option
from perdure.cli.settings import AppArgument, Setting
from perdure.cli.stderr_log import logging_options
from perdure.duration import parse_ms
from perdure.errors import DefinitionError
from perdure.sdk.keys import Keyring


def pod_options(command: click.decorators.FC) -> click.decorators.FC:
    """What processes on a shared log have in common."""
    for option in (
        click.option("--grace", cls=Setting, default="30s", show_default=True, help="How long a stop may take."),
        click.option(
            "--partitions",
            cls=Setting,
            type=click.IntRange(1, 1024),
            help="Fixed when the log is made.  [default: as it was made, else 4]",
        ),
        click.option("--log", cls=Setting, default="", help="kafka://HOST:PORT[,HOST:PORT]/NAMESPACE?SETTINGS"),
        click.argument("app", cls=AppArgument, metavar="MODULE:APP"),
    ):
        command = option(command)
    return command


@click.command()
@pod_options
@click.option("--data", cls=Setting, help="Folder for state, on this machine's own disk.  [default: .perdure]")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME[=SLOTS]",
    help="Be a member of this pool, so many steps at a time, and own no partitions. May be given several times.",
)
@click.option("--no-queues", is_flag=True, help="Leave steps with queue= to the pools.")
@click.option("--activate", is_flag=True, help="This code counts, although the log has seen newer: a rollback.")
@history_option
@retention_option
@click.option("--name", cls=Setting, default="", help="What people see of it.  [default: host and pid]")
@click.option("--health-port", cls=Setting, type=click.IntRange(0, 65535), help="Answer /healthz, /readyz, /metrics.")
@click.option("--health-host", cls=Setting, default="127.0.0.1", show_default=True, help="Others than that need keys.")
@keys_option
@logging_options
@json_option
def worker(
    app: str,
    log: str,
    partitions: int | None,
    grace: str,
    data: str | None,
    queues: tuple[str, ...],
    no_queues: bool,
    activate: bool,
    history: str,
    history_retention: str | None,
    name: str,
    health_port: int | None,
    health_host: str,
    keys: Keyring,
    as_json: bool,
) -> None:
    """Run the app as one of many processes on Kafka: each has a share of the partitions.

    SIGTERM or Ctrl-C drains: steps that run come to their end, none begins, others take over. A second one stops at
    once, and so does the end of --grace. Nothing is lost by either, or by a crash. With --history all of them write
    one history together.
    """
    from contextlib import ExitStack

    from perdure.cli.banner import announce_pod, say
    from perdure.cli.history.recording import kept_up
    from perdure.cli.listening import check_guarded, listen, url_of
    from perdure.cli.orders import PodReady
    from perdure.cli.pod import Http, Role, run
    from perdure.cli.sharing import shared_url, shown
    from perdure.cli.tables import app_that_notifies
    from perdure.sdk.port import FunctionView
    from perdure_connectors.http import health_checks

    if queues and no_queues:
        raise UsageProblem("--no-queues and --queue: a process that only works for pools cannot leave them to others")
    if health_port is not None:
        check_guarded(health_host, keys, "--health-host")
    pools = slots_of(queues)
    role = Role(
        shared_url(log, data),
        partitions,
        owns=not pools,
        queues=pools if pools or no_queues else None,
        activate=activate or None,
        name=name,
        grace_s=seconds("--grace", grace),
    )
    loaded = app_that_notifies(app)
    with ExitStack() as stack:
        http = health = None
        if health_port is not None:
            listener = stack.enter_context(listen(health_host, health_port))
            health = url_of(listener)
            http = Http(listener, lambda engine: health_checks(engine.late, loaded.name, keys))

        def ready(functions: list[FunctionView]) -> None:
            what = PodReady(loaded.name, "pool" if pools else "worker", shown(log), health or "", pools, functions)
            announce_pod(what, as_json=as_json)

        kept = (history or None) if not pools else None
        run(
            loaded,
            role,
            http,
            lambda pod: kept_up(pod, role.log, kept, history_retention),
            ready,
            lambda: say("stopping: once more to stop at once", as_json=as_json),
        )


def slots_of(queues: tuple[str, ...]) -> dict[str, int]:
    """`gpu=2` as a queue and its slots. Raises `UsageProblem`."""
    from perdure.sdk.engine import checked_queues
    from perdure.sdk.node import SLOTS

    given: dict[str, int] = {}
    for one in queues:
        name, equals, slots = one.partition("=")
        if equals and not (slots.isdecimal() and int(slots)):
            raise UsageProblem(f"--queue {one}: how many steps at a time, such as --queue {name or 'gpu'}=1")
        given[name] = int(slots) if equals else SLOTS
    try:
        return checked_queues(given)
    except DefinitionError as error:
        raise UsageProblem(f"--queue: {error}") from None


def seconds(option: str, text: str) -> float:
    """Raises `UsageProblem` for what is no duration."""
    try:
        return parse_ms(text, what=option) / 1000
    except DefinitionError as error:
        raise UsageProblem(str(error)) from None
