"""Events of a real topic: each is taken in, what nobody can read is put aside, and gaps are not skipped."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import uuid4

import pytest

from perdure.log.kafka.address import parse
from perdure.log.kafka.client import Client, Producer, partition_in
from perdure.log.kafka.log import KafkaLog
from perdure.log.protocol import Arrived


class Taking:
    """Takes events, and says done of them."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.origins: list[tuple[str, int, int]] = []

    def __call__(self, arrived: Arrived) -> None:
        self.values.append(arrived.value)
        self.origins.append(arrived.origin)
        arrived.done()


@pytest.fixture
def make(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], KafkaLog]:
    namespace = f"test-{uuid4().hex[:12]}"

    def made() -> KafkaLog:
        url = f"kafka://{kafka}/{namespace}?session=1s&data={tmp_path_factory.mktemp('disk')}"
        return KafkaLog(parse(url), "shop", partitions=1)

    return made


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def produce(log: KafkaLog, *values: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
    producer: Producer = Client(log.address).producer()
    await producer.start()
    for value in values:
        batch = producer.create_batch()
        batch.append(timestamp=None, key=None, value=value)
        await (await producer.send_batch(batch, log.events.topic, partition=0))
    await producer.stop()


async def test_what_is_done_is_not_given_again(make: Callable[[], KafkaLog]) -> None:
    first, second = Taking(), Taking()
    log = make()
    await log.open()
    log.events.subscribe(first)
    await log.acknowledge(log.events.put("a", b"1"))
    await produce(log, b"2")
    await until(lambda: len(first.values) == 2)
    await log.close()
    log = make()
    await log.open()
    log.events.subscribe(second)
    await produce(log, b"3")
    await until(lambda: bool(second.values))
    assert (first.values, second.values) == ([b"1", b"2"], [b"3"])
    await log.close()


async def test_what_is_not_done_is_given_again_from_the_same_place(make: Callable[[], KafkaLog]) -> None:
    kept: list[Arrived] = []
    again = Taking()
    log = make()
    await log.open()
    log.events.subscribe(kept.append)
    await log.acknowledge(log.events.put("a", b"1"))
    await until(lambda: bool(kept))
    await log.close()
    log = make()
    await log.open()
    log.events.subscribe(again)
    await until(lambda: bool(again.values))
    assert (again.values, again.origins) == ([kept[0].value], [kept[0].origin])
    await log.close()


async def test_what_is_refused_is_put_aside_with_its_reason(make: Callable[[], KafkaLog]) -> None:
    log = make()
    await log.open()
    log.events.subscribe(lambda arrived: log.events.refuse(arrived, "no event at all"))
    await log.acknowledge(log.events.put("a", b"nonsense"))
    async with asyncio.timeout(60):
        while not (letters := await log.read_side("dead-letters", 0, 0)):
            await asyncio.sleep(0.05)
    assert [bytes(letter) for batch in letters for letter in batch.values] == [
        b'{"topic": "%s", "partition": 0, "offset": 0, "reason": "no event at all"}' % log.events.topic.encode()
    ]
    await log.close()


async def test_a_gap_is_not_skipped_before_somebody_says_so(
    make: Callable[[], KafkaLog], caplog: pytest.LogCaptureFixture
) -> None:
    """Retention was shorter than an outage: events are gone that nobody took."""
    first, second = Taking(), Taking()
    log = make()
    await log.open()
    log.events.subscribe(first)
    await produce(log, b"0")
    await until(lambda: bool(first.values))
    await log.close()
    log = make()
    await log.open()
    await produce(log, b"1", b"2", b"3")
    await log.topics.trim(partition_in(log.events.topic, 0), 3)
    log.events.subscribe(second)
    await until(lambda: "skip-gap APP --partition 0 --offset 3" in caplog.text)
    assert (second.values, log.events.gaps) == ([], {0: (1, 3)})
    await log.events.skip_gap(0, 3)
    await until(lambda: bool(second.values))
    assert (second.values, log.events.gaps) == ([b"3"], {})
    await log.close()


async def test_a_gap_that_opens_while_events_are_read(
    make: Callable[[], KafkaLog], caplog: pytest.LogCaptureFixture
) -> None:
    """The app lags behind by more than is kept."""
    taken: list[Arrived] = []
    log = make()
    await log.open()
    reader = log.events.subscribe(taken.append)
    await produce(log, b"0")
    await until(lambda: bool(taken))
    consumer = getattr(reader, "_consumer")  # noqa: B009 - what falls behind
    consumer.pause(partition_in(log.events.topic, 0))
    await asyncio.sleep(0.5)
    await produce(log, b"1", b"2", b"3")
    await log.topics.trim(partition_in(log.events.topic, 0), 3)
    consumer.resume(partition_in(log.events.topic, 0))
    await until(lambda: "skip-gap APP --partition 0 --offset 3" in caplog.text)
    assert [arrived.value for arrived in taken] == [b"0"]
    await log.close()
