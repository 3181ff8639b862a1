"""Journals that are trimmed at once, and events that are kept until they are taken in."""

from dataclasses import replace

from perdure.log.kafka import parse
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics


async def keep_events(url: str, partitions: int) -> None:
    """Makes the topic of events, before an engine does: its `retention=1ms` is meant for its own journal.

    Brokers let go of what is older each second, and an event that goes between its sending and its reading is a gap.
    """
    address = replace(parse(url), retention_ms=None)
    await Topics(Client(address)).ensure({address.topic("events"): ("events", partitions)})
