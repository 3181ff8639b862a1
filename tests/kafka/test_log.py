"""What is Kafka's own: others trim what we have not read, and the brokers go away and come back."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from uuid import uuid4

import pytest

from perdure.errors import LogError, LogMismatch
from perdure.log.kafka import feed
from perdure.log.kafka.address import parse
from perdure.log.kafka.log import KafkaLog
from perdure.log.protocol import Batch
from tests.kafka.broker import Broker
from tests.log.tools import Reading, fetch_all, write


@pytest.fixture
async def pods(kafka: str, tmp_path: Path) -> AsyncGenerator[tuple[KafkaLog, KafkaLog]]:
    namespace = f"test-{uuid4().hex[:12]}"
    made = [KafkaLog(parse(f"kafka://{kafka}/{namespace}?data={tmp_path / name}"), "shop", 2) for name in "ab"]
    for log in made:
        await log.open()
    yield made[0], made[1]
    for log in made:
        await log.close()


async def test_who_reads_what_another_trimmed_is_told_where_the_log_begins(pods: tuple[KafkaLog, KafkaLog]) -> None:
    ours, theirs = pods
    told: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    await write(theirs, [b"a", b"b", b"c"])
    await theirs.trim(0, 2)
    assert ours.start(0) == 0, "it has not heard of it"
    ours.follow(0, 0, Reading(), failed=told.set_result)
    async with asyncio.timeout(60):
        assert isinstance(await told, IndexError)
    assert ours.start(0) == 2
    reading = Reading()
    ours.follow(0, 2, reading)
    assert await reading.until(1) == [b"c"]


async def test_what_one_appends_the_other_reads(pods: tuple[KafkaLog, KafkaLog]) -> None:
    ours, theirs = pods
    reading = Reading()
    ours.follow(1, 0, reading)
    await write(theirs, [b"a"], partition=1)
    await write(ours, [b"b"], partition=1)
    assert await reading.until(2) == [b"a", b"b"]
    assert await ours.latest(1) == await theirs.latest(1) == 2


async def test_a_record_larger_than_an_answer_is_fetched_whole(pods: tuple[KafkaLog, KafkaLog]) -> None:
    ours, _ = pods
    large = b"x" * (3 << 20)
    await write(ours, [b"a", large, b"b"])
    assert [one.values for one in await ours.fetch(0, 1, limit_bytes=1)] == [[large]]
    assert [value for _, value in await fetch_all(ours)] == [b"a", large, b"b"]


async def test_a_late_follower_meets_the_feed(pods: tuple[KafkaLog, KafkaLog]) -> None:
    ours, theirs = pods
    first, second = Reading(), Reading()
    ours.follow(0, 0, first)
    values = [b"%d" % index for index in range(500)]
    await write(theirs, values[:300])
    await first.until(300)
    ours.follow(0, 10, second)
    await write(theirs, values[300:])
    assert await first.until(500) == values
    assert await second.until(490) == values[10:]


async def test_a_sink_that_begins_anew_misses_nothing(pods: tuple[KafkaLog, KafkaLog]) -> None:
    """In the midst of what one fetch brought: the rest of it is not what the new follower wants next."""
    ours, theirs = pods
    again = Reading()
    first = Reading()

    def once(batch: Batch) -> None:
        reader.close()
        ours.follow(0, 0, again)

    values = [b"%d" % index for index in range(50)]
    for value in values:
        await write(theirs, [value])
        await asyncio.sleep(0.002)  # a time of its own, and so a batch of its own
    await ours.latest(0)
    ours.follow(1, 0, first)
    reader = ours.follow(0, 5, once)
    assert await again.until(50) == values


async def test_a_fetcher_that_stands_still_is_replaced(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "STALLED_SECONDS", 0.3)
    log = KafkaLog(parse(f"kafka://{kafka}/test-{uuid4().hex[:12]}?data={tmp_path}"), "shop", 2)
    await log.open()
    reading = Reading()
    log.follow(0, 0, reading)
    await write(log, [b"a"])
    await reading.until(1)

    async def nothing(*_: object, **settings: int) -> dict[object, object]:
        await asyncio.sleep(settings["timeout_ms"] / 1000)
        return {}

    monkeypatch.setattr(log._feed._consumer, "getmany", nothing)
    await asyncio.sleep(feed.POLL_MS / 1000)
    await write(log, [b"b"])
    assert await reading.until(2) == [b"a", b"b"]
    await log.close()


async def test_another_number_of_partitions_is_refused(pods: tuple[KafkaLog, KafkaLog], tmp_path: Path) -> None:
    address = pods[0].address
    with pytest.raises(LogMismatch, match=r"has 2 partitions, and 3 were asked for.*partitions=2"):
        await KafkaLog(address, "shop", 3).open()


async def test_topics_that_may_not_be_made_are_missed(kafka: str, tmp_path: Path) -> None:
    address = parse(f"kafka://{kafka}/test-{uuid4().hex[:12]}?create=no&data={tmp_path}")
    with pytest.raises(LogError, match=r"topic .* is missing: `perdure topics create`"):
        await KafkaLog(address, "shop").open()


async def test_no_broker_at_all(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no Kafka broker answers at 127.0.0.1:1: is it running"):
        await KafkaLog(parse(f"kafka://127.0.0.1:1?data={tmp_path}"), "shop").open()


@pytest.mark.usefixtures("kafka")
async def test_a_broker_that_dies_and_comes_back_has_everything_once_in_order(tmp_path: Path) -> None:
    """What was appended meanwhile is kept, and sent when it is back."""
    broker = Broker(tmp_path / "broker")
    await asyncio.to_thread(broker.start)
    try:
        log = KafkaLog(parse(f"kafka://{broker.bootstrap}?data={tmp_path / 'disk'}"), "shop", 2)
        await log.open()
        reading = Reading()
        log.follow(0, 0, reading)
        values = [b"%d" % index for index in range(60)]
        await write(log, values[:20])
        broker.kill()
        for value in values[20:40]:
            log.append(0, value)
        await asyncio.sleep(0.5)
        assert log.acknowledged == 20
        # Who takes a partition up meanwhile is told so, and tries again.
        assert log.snapshots is not None
        with pytest.raises(LogError, match="does not answer at present"):
            await log.snapshots.fence(0)
        with pytest.raises(LogError, match="does not answer at present"):
            await log.snapshots.read(0)
        await asyncio.to_thread(broker.start)
        async with asyncio.timeout(60):
            while log.acknowledged < 40:
                await asyncio.sleep(0.05)
        await write(log, values[40:])
        read = await reading.until(60)
        # Once by chance alone: a producer that was given up may have delivered, and its successor after it.
        assert list(dict.fromkeys(read)) == values
        assert [value for _, value in await fetch_all(log)] == read
        await log.close()
    finally:
        broker.kill()
