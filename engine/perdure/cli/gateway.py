"""`perdure gateway`."""

import click

from perdure.cli.command import json_option, keys_option
from perdure.cli.listening import check_guarded, listen
from perdure.cli.settings import Setting
from perdure.cli.stderr_log import logging_options
from perdure.cli.worker import pod_options, seconds
from perdure.sdk.keys import Keyring


@click.command()
@pod_options
@click.option("--host", cls=Setting, default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", cls=Setting, type=click.IntRange(0, 65535), default=8288, show_default=True)
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
    keys: Keyring,
    as_json: bool,
) -> None:
    """Take events and calls for an app whose workers run elsewhere. It keeps nothing itself.

    While the brokers are away it answers 503 with Retry-After, and acknowledges nothing. Where other machines reach it
    (--host 0.0.0.0) it needs keys.
    """
    from perdure.cli.banner import announce_pod, say
    from perdure.cli.listening import url_of
    from perdure.cli.loading import load_app
    from perdure.cli.orders import PodReady
    from perdure.cli.pod import Http, Role, run
    from perdure.cli.sharing import shared_url, shown
    from perdure.cli.tables import webhook_sources
    from perdure.sdk.port import FunctionView
    from perdure_connectors.http import gateway as http_gateway

    role = Role(shared_url(log), partitions, owns=False, queues={}, grace_s=seconds("--grace", grace))
    with listen(check_guarded(host, keys), port) as listener:
        loaded = load_app(app)

        def ready(functions: list[FunctionView]) -> None:
            what = PodReady(loaded.name, "gateway", shown(log), url_of(listener), functions=functions)
            announce_pod(what, as_json=as_json)

        sources = webhook_sources()
        http = Http(listener, lambda engine: http_gateway(engine.late, loaded.name, keys=keys, webhooks=sources))
        run(loaded, role, http, ready, lambda: say("stopping: once more to stop at once", as_json=as_json))
