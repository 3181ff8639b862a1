"""`perdure dead-letters retry`."""

import asyncio

import click

from perdure.cli import exits
from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.output import console, print_json, styled
from perdure.cli.sharing import app_name, log_options, opened


@click.command()
@log_options
@click.argument("numbers", nargs=-1, type=click.IntRange(0), metavar="[NUMBER]...")
@click.option("--all", "everything", is_flag=True, help="All that were not taken in since.")
@json_option
@click.pass_context
def retry(ctx: click.Context, app: str, log: str, numbers: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """Read records at their places again, and take in those that can be read by now: by a newer version, say.

    Exits with 1 if one of them cannot. What is taken in twice is one event.
    """
    from perdure.errors import PayloadError
    from perdure.log.kafka import KafkaLog
    from perdure.log.kafka.letters import Letter, letters_of, reread, settle
    from perdure.sdk.ingest import take_in

    if everything == bool(numbers):
        raise UsageProblem("which? give their numbers, as `perdure dead-letters list` has them, or --all")

    async def chosen(shared: KafkaLog) -> list[Letter]:
        found = {letter.number: letter for letter in await letters_of(shared)}
        missing = [number for number in numbers if number not in found]
        if missing:
            raise UsageProblem(f"there is no dead letter {missing[0]}: `perdure dead-letters list --all` shows all")
        return [found[number] for number in numbers] or [letter for letter in found.values() if not letter.event]

    async def again(shared: KafkaLog, letter: Letter) -> dict[str, object]:
        try:
            event = take_in(shared, await reread(shared, letter))
        except PayloadError as error:
            return {"number": letter.number, "error": str(error)}
        await shared.acknowledge(settle(shared, letter, event.id))
        return {"number": letter.number, "event": event.id}

    async def all_again() -> list[dict[str, object]]:
        async with opened(log, app_name(app)) as shared:
            return [await again(shared, letter) for letter in await chosen(shared)]

    done = asyncio.run(all_again())
    if as_json:
        print_json({"data": done})
    else:
        for one in done:
            what = f"taken in, as event {one['event']}" if "event" in one else f"still not: {one['error']}"
            console().print(styled(f"{one['number']}  {what}"))
        if not done:
            console().print("no dead letters")
    ctx.exit(exits.FAILED if any("error" in one for one in done) else exits.OK)
