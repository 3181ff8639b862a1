"""Work that one process does at a time."""

import asyncio

import pytest

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


async def test_what_stands_for_the_work_may_be_deleted_at_its_end(
    kafka_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks about it makes it anew, where brokers make topics by themselves; aiokafka logs each such question."""
    address = parse(kafka_url)
    client, topic = Client(address), address.topic("work")
    topics = Topics(client)
    await topics.mark(topic)
    async with claimed(client, topic, "this work"):
        await asyncio.sleep(0.5)  # what was being fetched has come
        caplog.clear()
        await topics.delete([topic])
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert topic not in await topics.names()
        assert [line for line in caplog.messages if topic in line] == []
