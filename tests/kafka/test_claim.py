"""Work that one process does at a time."""

import asyncio

from perdure.errors import LogInUse
from perdure.log.kafka import parse
from perdure.log.kafka.claim import claimed
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics


async def test_of_some_that_come_together_one_goes_on(kafka_url: str) -> None:
    address = parse(kafka_url)
    client, topic = Client(address), address.topic("work")
    await Topics(client).mark(topic)
    words: list[str] = []
    all_know = asyncio.Event()

    async def come() -> None:
        try:
            async with claimed(client, topic, "this work"):
                words.append("mine")
                await all_know.wait()
        except LogInUse as error:
            words.append(str(error))

    coming = [asyncio.ensure_future(come()) for _ in range(3)]
    while len(words) < 3:
        await asyncio.sleep(0.05)
    all_know.set()
    await asyncio.gather(*coming)
    assert words.count("mine") == 1
    assert all("this work is under way already" in one for one in words if one != "mine")
    async with claimed(client, topic, "this work"):
        pass
