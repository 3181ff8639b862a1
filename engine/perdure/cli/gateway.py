"""`perdure gateway`."""

import click

from perdure.cli.command import json_option, keys_option
from perdure.cli.history.places import retention_option
from perdure.cli.listening import check_guarded, listen
from perdure.cli.settings import Setting
from perdure.cli.stderr_log import logging_options
from perdure.cli.worker import pod_options, seconds
from perdure.sdk.keys import Keyring


@click.command()
@pod_options
@click.option("--host", cls=Setting, default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", cls=Setting, type=click.IntRange(0, 65535), default=8288, show_default=True)
@click.option(
    "--history",
    cls=Setting,
    default="",
    metavar="URL",
    help="Answer from the history that workers write: postgresql://USER:PASSWORD@HOST/DATABASE.",
)
@click.option("--data", cls=Setting, help="Without --history: keep a history of its own in this folder.")
@retention_option
@keys_option
@logging_options
@json_option
def gateway(
    app: str,
    log: str,
    partitions: int | None,
    grace: str,
    host: str,
    port: int,
    history: str,
    data: str | None,
    history_retention: str | None,
    keys: Keyring,
    as_json: bool,
) -> None:
    """Take events and calls for an app whose workers run elsewhere, and show its runs and dashboard.

    It owns no partitions. Lists of runs and the dashboard need a history: that which `perdure worker --history` writes,
    or one of its own (--data), for a small app with a single gateway. While the brokers are away it answers 503 with
    Retry-After, and acknowledges nothing. Where other machines reach it (--host 0.0.0.0) it needs keys.
    """
    from contextlib import nullcontext

    from perdure.cli.banner import announce_pod, say
    from perdure.cli.history.looking import Looking
    from perdure.cli.listening import url_of
    from perdure.cli.loading import load_app
    from perdure.cli.orders import PodReady
    from perdure.cli.pod import Http, Role, run
    from perdure.cli.sharing import shared_url, shown
    from perdure.cli.tables import webhook_sources
    from perdure.sdk.port import FunctionView
    from perdure_connectors.http import gateway as http_gateway

    url = shared_url(log, None if history else data)
    role = Role(url, partitions, owns=False, queues={}, grace_s=seconds("--grace", grace))
    looking = Looking(url, history, history_retention) if history or data else None
    with listen(check_guarded(host, keys), port) as listener:
        loaded = load_app(app)

        def ready(functions: list[FunctionView]) -> None:
            what = PodReady(loaded.name, "gateway", shown(log), url_of(listener), functions=functions)
            announce_pod(what, as_json=as_json)

        sources = webhook_sources()
        http = Http(
            listener,
            lambda engine: http_gateway(
                engine.late,
                loaded.name,
                keys=keys,
                webhooks=sources,
                hindsight=looking.hindsight.given if looking else None,
                bulk=looking.bulk.given if looking else None,
            ),
        )
        run(
            loaded,
            role,
            http,
            looking.beside if looking else lambda pod: nullcontext(),
            ready,
            lambda: say("stopping: once more to stop at once", as_json=as_json),
        )
