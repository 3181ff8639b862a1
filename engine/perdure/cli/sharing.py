"""A log that several processes share, as the command line names it."""

from dataclasses import replace
from urllib.parse import quote

from perdure.cli.exits import UsageProblem
from perdure.log.kafka import parse
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics


def shared_url(log: str, data: str | None = None) -> str:
    """The URL, with the folder that was named beside it. Raises `UsageProblem` for a log of one process."""
    if not log.startswith("kafka://"):
        raise UsageProblem(
            f"--log {shown(log) or 'is missing'}: a log that processes share is needed, such as "
            "--log kafka://localhost:9092; on one machine `perdure serve` does without"
        )
    if data is None:
        return log
    return f"{log}{'&' if '?' in log else '?'}data={quote(data, safe='/')}"


def shown(log: str) -> str:
    """The URL without its settings, which may hold a password."""
    return log.partition("?")[0]


async def partitions_there(log: str, app: str) -> int | None:
    """How many the journal of the app has; None if there is none yet."""
    address = parse(log)
    journal = address.topic(app, "journal")
    return (await Topics(Client(replace(address, create=False))).partitions_of([journal])).get(journal)
