"""`perdure topics skip-gap`."""

import asyncio

import click

from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.output import console, print_json, styled
from perdure.cli.sharing import app_name, log_options, opened


@click.command("skip-gap")
@log_options
@click.option("--partition", type=click.IntRange(0), required=True, help="Of the topic of events.")
@click.option("--offset", type=click.IntRange(0), required=True, help="Where to go on.")
@json_option
def skip_gap(app: str, log: str, partition: int, offset: int, as_json: bool) -> None:
    """Acknowledge that events are gone that were never taken in: brokers deleted them while no worker read.

    The worker that waits at the gap says with which partition and offset, and goes on within seconds.
    """

    async def skip() -> str:
        async with opened(log, app_name(app)) as shared:
            topic = shared.events.topic
            bounds = (await shared.topics.bounds_of([topic]))[topic]
            if partition not in bounds:
                raise UsageProblem(f"--partition {partition}: {topic} has {len(bounds)}, numbered from 0")
            start, end = bounds[partition]
            if not start <= offset <= end:
                raise UsageProblem(f"--offset {offset}: partition {partition} of {topic} has {start} to {end} by now")
            await shared.events.skip_gap(partition, offset)
            return topic

    topic = asyncio.run(skip())
    if as_json:
        print_json({"topic": topic, "partition": partition, "offset": offset})
    else:
        console().print(styled(f"known: partition {partition} of {topic} has a gap below offset {offset}"))
