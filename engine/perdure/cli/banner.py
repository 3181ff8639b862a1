"""What `dev` and `serve` say when they are ready."""

from rich.table import Table
from rich.text import Text

from perdure.cli.functions import starts
from perdure.cli.orders import PodReady, Ready
from perdure.cli.output import console, print_json, release, styled


def announce(ready: Ready, *, note: str, as_json: bool) -> None:
    """Where it is, what it runs, and how to send the first event."""
    if as_json:
        print_json({"ready": ready})
        return
    screen = console()
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("dashboard", "bold"), styled(ready.url, "bold cyan"))
    table.add_row(Text("gateway", "bold"), styled(f"{ready.url}  (events: POST /e/KEY, runs: GET /v1/runs)"))
    table.add_row(Text("log", "bold"), styled(ready.log))
    table.add_row(Text("code", "bold"), styled(note))
    screen.print()
    screen.print(Text.assemble(("Perdure ", "bold green"), release(), "  ", styled(ready.app, "bold")))
    screen.print(table)
    screen.print()
    listed = Table.grid(padding=(0, 2))
    for view in ready.functions:
        listed.add_row("  ", styled(view.id, "bold"), styled(starts(view)))
    screen.print(listed if ready.functions else "  no functions yet: add one with @app.function(on=…)")
    screen.print()
    trigger = next((name for view in ready.functions for name in view.triggers if "*" not in name), "")
    if trigger:
        at = "" if ready.url == "http://127.0.0.1:8288" else f" --url {ready.url}"
        screen.print(styled(f"try: perdure send {trigger} --data '{{}}'{at}", "dim"))
    screen.print("Ctrl-C stops; what is running goes on at the next start.", style="dim")


def announce_pod(ready: PodReady, *, as_json: bool) -> None:
    """What one of many processes does."""
    if as_json:
        print_json({"ready": ready})
        return
    screen = console()
    table = Table.grid(padding=(0, 2))
    if ready.url:
        asks = "events: POST /e/KEY" if ready.role == "gateway" else "/healthz, /readyz, /metrics"
        table.add_row(Text("answers", "bold"), styled(f"{ready.url}  ({asks})"))
    table.add_row(Text("log", "bold"), styled(ready.log))
    if ready.queues:
        queues = ", ".join(f"{name} ({slots} at a time)" for name, slots in ready.queues.items())
        table.add_row(Text("queues", "bold"), styled(queues))
    else:
        table.add_row(Text("functions", "bold"), styled(", ".join(view.id for view in ready.functions) or "none yet"))
    screen.print(
        Text.assemble(("Perdure ", "bold green"), release(), "  ", styled(f"{ready.app} {ready.role}", "bold"))
    )
    screen.print(table)


def announce_again(ready: Ready, took_s: float, *, as_json: bool) -> None:
    """After a reload."""
    if as_json:
        print_json({"ready": ready})
    else:
        count = len(ready.functions)
        say(f"reloaded in {took_s:.1f}s: {count} function{'' if count == 1 else 's'}")


def say(text: str, style: str = "dim", *, as_json: bool = False) -> None:
    """A line about what goes on. Programs that read JSON get none of it on standard output."""
    console(stderr=as_json).print(styled(text, style, lines=True))
