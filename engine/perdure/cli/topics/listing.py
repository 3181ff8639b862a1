"""`perdure topics list`."""

import asyncio

import click
from rich.table import Table

from perdure.cli.command import json_option
from perdure.cli.output import console, print_json, styled
from perdure.cli.settings import Setting
from perdure.cli.sharing import shared_url


@click.command("list")
@click.option("--log", cls=Setting, default="", help="kafka://HOST:PORT[,HOST:PORT]/NAMESPACE?SETTINGS")
@json_option
def listing(log: str, as_json: bool) -> None:
    """List all topics of the namespace, with what they hold."""
    from perdure.log.kafka import parse
    from perdure.log.kafka.client import Client
    from perdure.log.kafka.topics import Topics

    async def look() -> dict[str, dict[int, tuple[int, int]]]:
        topics = Topics(Client(parse(shared_url(log))))
        return await topics.bounds_of(await topics.names())

    found = asyncio.run(look())
    if as_json:
        rows = [
            {
                "topic": topic,
                "partitions": [{"partition": one, "start": start, "end": end} for one, (start, end) in bounds.items()],
            }
            for topic, bounds in found.items()
        ]
        print_json({"data": rows})
        return
    if not found:
        console().print("no topics: a worker makes them, or `perdure topics create`")
        return
    table = Table("topic", "partitions", "offsets", box=None, header_style="bold")
    for topic, bounds in sorted(found.items()):
        count = sum(end - start for start, end in bounds.values())
        table.add_row(styled(topic), str(len(bounds)), f"{count:,}")
    console().print(table)
