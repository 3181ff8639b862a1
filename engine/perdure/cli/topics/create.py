"""`perdure topics create`."""

import asyncio
from dataclasses import replace

import click

from perdure.cli.command import json_option
from perdure.cli.output import console, print_json, styled
from perdure.cli.sharing import app_name, log_options, partitions_there, queues_of, shared_url


@click.command()
@log_options
@click.option(
    "--partitions", type=click.IntRange(1, 1024), help="Fixed for good.  [default: as the journal was made, else 4]"
)
@json_option
def create(app: str, log: str, partitions: int | None, as_json: bool) -> None:
    """Make what is missing of an app's topics, for brokers on which the app itself may not.

    APP is module:app, or the app's name alone: then those of its queues are left out.
    """
    from perdure.cli.pod import PARTITIONS
    from perdure.log.kafka import parse
    from perdure.log.kafka.client import Client
    from perdure.log.kafka.commands import PARTITIONS as QUEUE_PARTITIONS
    from perdure.log.kafka.topics import Topics, wanted_of

    address = replace(parse(shared_url(log)), create=True)
    name = app_name(app)

    async def make() -> tuple[dict[str, int], list[str]]:
        count = partitions or await partitions_there(log, name) or PARTITIONS
        queues = {address.topic(name, "commands", queue): ("commands", QUEUE_PARTITIONS) for queue in queues_of(app)}
        wanted = wanted_of(address, name, count) | queues
        topics = Topics(Client(address))
        before = await topics.partitions_of(wanted)
        return await topics.ensure(wanted), [topic for topic in wanted if topic not in before]

    there, made = asyncio.run(make())
    if as_json:
        print_json({"data": [{"topic": topic, "partitions": there[topic], "made": topic in made} for topic in there]})
        return
    for topic, count in there.items():
        console().print(styled(f"{'made' if topic in made else 'was there'}  {topic}, {_plural(count, 'partition')}"))


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
