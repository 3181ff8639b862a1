"""What every log must do. A log's own test file subclasses `Conformance` and gives the fixture `bench`.

Nothing here assumes that offsets are dense over batches, that a flush takes a given time, or that the log is local.
"""

import asyncio
import random
from contextvars import ContextVar

import pytest

from perdure.log.protocol import Batch
from tests.log.conformance_commands import CommandConformance
from tests.log.conformance_group import GroupConformance
from tests.log.conformance_stores import StoreConformance
from tests.log.conformance_trim import TrimConformance
from tests.log.tools import Bench, Reading, fetch_all, flat, side, stamps, values, write

_caller: ContextVar[str] = ContextVar("_caller", default="nobody")


class Conformance(CommandConformance, StoreConformance, GroupConformance, TrimConformance):
    async def test_records_stand_in_the_order_of_their_tickets(self, bench: Bench) -> None:
        log = bench.log
        tickets = [log.append(index % 2, b"%d" % index) for index in range(100)]
        assert tickets == list(range(1, 101))
        await log.acknowledge(100)
        assert log.acknowledged == 100
        for partition in (0, 1):
            records = await fetch_all(log, partition)
            assert [value for _, value in records] == [b"%d" % index for index in range(partition, 100, 2)]
            offsets = [offset for offset, _ in records]
            assert offsets == sorted(set(offsets))
            assert log.end(partition) == offsets[-1] + 1

    async def test_nobody_reads_what_is_not_acknowledged(self, bench: Bench) -> None:
        log = bench.log
        end, seen = log.end(0), list[int]()
        log.follow(0, end, lambda _: seen.append(log.acknowledged))
        ticket = log.append(0, b"a")
        assert log.acknowledged < ticket
        assert log.end(0) == end
        await log.acknowledge(ticket)
        # Of a shared log it may be read before we hear that it is durable.
        assert log.shared or all(acknowledged >= ticket for acknowledged in seen)
        assert values(await log.fetch(0, end)) == [b"a"]

    async def test_acknowledge_of_an_old_ticket_returns_at_once(self, bench: Bench) -> None:
        ticket = await write(bench.log, [b"a", b"b"])
        await bench.log.acknowledge(ticket)
        await bench.log.acknowledge(1)

    async def test_waiters_in_any_order_are_all_told(self, bench: Bench) -> None:
        log = bench.log
        tickets = [log.append(0, b"%d" % index) for index in range(20)]
        random.Random(7).shuffle(tickets)
        await asyncio.gather(*(log.acknowledge(ticket) for ticket in tickets))

    async def test_a_waiter_may_give_up(self, bench: Bench) -> None:
        log = bench.log
        waiter = asyncio.create_task(log.acknowledge(1))
        await asyncio.sleep(0)
        waiter.cancel()
        await write(log, [b"a", b"b"])
        assert waiter.cancelled()
        assert [value for _, value in await fetch_all(log)] == [b"a", b"b"]

    async def test_a_partition_that_is_not_there(self, bench: Bench) -> None:
        for partition in (-1, bench.log.partitions):
            with pytest.raises(IndexError):
                bench.log.append(partition, b"x")
        assert await write(bench.log, [b"a"]) == 1

    @pytest.mark.parametrize(
        "odd", [[b""], [b"", b"", b""], [b"\n"], [b"a\nb", b"", b"\n\n", b"\0\xff"], [b"x" * 1_000_000, b"y"]]
    )
    async def test_any_bytes_come_back(self, bench: Bench, odd: list[bytes]) -> None:
        await write(bench.log, odd)
        assert [value for _, value in await fetch_all(bench.log)] == odd
        log = await bench.reopen()
        assert [value for _, value in await fetch_all(log)] == odd

    # Reading

    async def test_read_begins_inside_a_batch(self, bench: Bench) -> None:
        await write(bench.log, [b"%d" % index for index in range(10)])
        records = await fetch_all(bench.log)
        for offset, _ in records:
            assert flat(await bench.log.fetch(0, offset)) == [record for record in records if record[0] >= offset]

    async def test_read_gives_at_least_one_batch_however_small_the_limit(self, bench: Bench) -> None:
        for index in range(5):
            await write(bench.log, [b"%d" % index * 100])
        assert len(await fetch_all(bench.log, limit_bytes=1)) == 5
        assert values(await bench.log.fetch(0, bench.log.start(0), limit_bytes=1)) == [b"0" * 100]

    async def test_offsets_outside_the_log_are_refused(self, bench: Bench) -> None:
        await write(bench.log, [b"a"])
        for offset in (bench.log.start(0) - 1, bench.log.end(0) + 1):
            with pytest.raises(IndexError):
                await bench.log.fetch(0, offset)
            with pytest.raises(IndexError):
                bench.log.follow(0, offset, Reading())

    # Readers

    async def test_a_reader_is_given_what_is_stored_and_what_comes(self, bench: Bench) -> None:
        log = bench.log
        stored = [b"stored %d " % index + b"." * 500 for index in range(3_000)]
        await write(log, stored)
        reading = Reading()
        log.follow(0, log.start(0), reading)
        assert reading.batches == []  # never from within `follow`
        fresh = [b"fresh %d" % index for index in range(200)]
        for record in fresh:
            log.append(0, record)
            await asyncio.sleep(0)
        assert await reading.until(3_200) == stored + fresh
        offsets = [offset for offset, _ in flat(reading.batches)]
        assert offsets == sorted(set(offsets))
        assert flat(reading.batches) == await fetch_all(log)

    async def test_a_reader_at_the_end_is_given_only_what_comes(self, bench: Bench) -> None:
        await write(bench.log, [b"old"])
        reading = Reading()
        bench.log.follow(0, bench.log.end(0), reading)
        await write(bench.log, [b"new"])
        await write(bench.log, [b"other"], partition=1)
        assert await reading.until(1) == [b"new"]

    async def test_a_reader_begins_inside_a_batch(self, bench: Bench) -> None:
        await write(bench.log, [b"a", b"b", b"c"])
        offset = (await fetch_all(bench.log))[1][0]
        reading = Reading()
        bench.log.follow(0, offset, reading)
        assert await reading.until(2) == [b"b", b"c"]
        assert reading.batches[0].offset == offset

    async def test_readers_do_not_take_from_each_other(self, bench: Bench) -> None:
        readings = [Reading() for _ in range(3)]
        for reading in readings:
            bench.log.follow(0, bench.log.start(0), reading)
            await write(bench.log, [b"a", b"b"])
        for reading in readings:
            assert await reading.until(6) == [b"a", b"b"] * 3

    async def test_a_closed_reader_is_given_nothing_more(self, bench: Bench) -> None:
        log = bench.log
        reading = Reading()

        def once(batch: Batch) -> None:
            reading(batch)
            reader.close()

        for index in range(3):
            await write(log, [b"%d" % index])
        reader = log.follow(0, log.start(0), once)
        await reading.until(1)
        await write(log, [b"3"])
        assert await reading.until(1) == values(reading.batches[:1])
        reader.close()

    async def test_a_sink_may_append_follow_and_close_others(self, bench: Bench) -> None:
        log = bench.log
        second = Reading()
        victim = Reading()
        got: list[bytes] = []

        def sink(batch: Batch) -> None:
            if not got:
                victims.close()
                log.follow(0, batch.offset, second)
                log.append(0, b"from the sink")
            got.extend(batch.values)

        log.follow(0, log.end(0), sink)
        victims = log.follow(0, log.end(0), victim)
        await write(log, [b"a"])
        assert await second.until(2) == [b"a", b"from the sink"] == got
        assert victim.values == []

    async def test_a_sink_that_raises_ends_its_reader_only(self, bench: Bench) -> None:
        log = bench.log
        reasons: list[Exception] = []

        def bad(batch: Batch) -> None:
            raise ValueError(batch.values[0].decode())

        reading = Reading()
        log.follow(0, log.end(0), bad, failed=reasons.append)
        log.follow(0, log.end(0), reading)
        await write(log, [b"a"])
        await write(log, [b"b"])
        assert await reading.until(2) == [b"a", b"b"]
        assert [str(reason) for reason in reasons] == ["a"]

    async def test_without_failed_the_loop_hears_of_it(self, bench: Bench) -> None:
        heard: list[BaseException | None] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context.get("exception")))

        def bad(batch: Batch) -> None:
            raise ValueError("no")

        bench.log.follow(0, bench.log.end(0), bad)
        reading = Reading()
        bench.log.follow(0, bench.log.end(0), reading)
        await write(bench.log, [b"a"])
        await reading.until(1)
        assert [type(error) for error in heard] == [ValueError]

    async def test_sinks_run_in_an_empty_context(self, bench: Bench) -> None:
        seen: list[str] = []
        await write(bench.log, [b"stored"])
        token = _caller.set("a run")
        try:
            bench.log.follow(0, bench.log.start(0), lambda _: seen.append(_caller.get()))
            await write(bench.log, [b"fresh"])
            reading = Reading()
            bench.log.follow(0, bench.log.start(0), reading)
            await reading.until(2)
        finally:
            _caller.reset(token)
        assert seen == ["nobody", "nobody"]

    # Time

    async def test_time_never_goes_back(self, bench: Bench) -> None:
        log = bench.log
        reading = Reading()
        log.follow(0, log.end(0), reading)
        for index in range(5):
            before = log.now_ms()
            await write(log, [b"%d" % index])
            await reading.until(index + 1)
            assert before <= reading.batches[-1].timestamp_ms <= log.now_ms()
        last = reading.batches[-1].timestamp_ms
        log = await bench.reopen()
        assert log.now_ms() >= last
        await write(log, [b"later"])
        assert (await log.fetch(0, log.end(0) - 1))[0].timestamp_ms >= last

    async def test_timestamps_come_back_as_they_were_delivered(self, bench: Bench) -> None:
        log = bench.log
        reading = Reading()
        log.follow(0, log.end(0), reading)
        for index in range(3):
            await write(log, [b"%d" % index])
        await reading.until(3)
        stored = await log.fetch(0, log.start(0))
        assert stamps(reading.batches) == stamps(stored)

    # Ends

    async def test_close_writes_what_is_pending(self, bench: Bench) -> None:
        for index in range(10):
            bench.log.append(0, b"%d" % index)
        log = await bench.reopen()
        assert len(await fetch_all(log)) == 10
        await write(log, [b"next"])
        assert [value for _, value in await fetch_all(log)][-2:] == [b"9", b"next"]

    async def test_close_twice_and_readers_end(self, bench: Bench) -> None:
        reading = Reading()
        bench.log.follow(0, bench.log.end(0), reading)
        await write(bench.log, [b"a"])
        await reading.until(1)
        await bench.log.close()
        await bench.log.close()
        log = await bench.reopen()
        await write(log, [b"b"])
        assert await reading.until(1) == [b"a"]

    async def test_close_twice_at_a_time(self, bench: Bench) -> None:
        bench.log.append(0, b"a")
        await asyncio.gather(bench.log.close(), bench.log.close())
        assert [value for _, value in await fetch_all(await bench.reopen())] == [b"a"]

    async def test_nothing_acknowledged_is_lost_in_a_crash(self, bench: Bench) -> None:
        log = bench.log
        rng = random.Random(3)
        for life in range(3):
            kept = {partition: await fetch_all(log, partition) for partition in (0, 1)}
            for index in range(20):
                partition = rng.randrange(2)
                record = b"life %d record %d" % (life, index)
                await write(log, [record], partition)
                kept[partition].append((log.end(partition) - 1, record))
            log.append(0, b"perhaps")
            log = await bench.crash()
            for partition in (0, 1):
                assert (await fetch_all(log, partition))[: len(kept[partition])] == kept[partition]

    # Side topics

    async def test_side_topics_stand_apart(self, bench: Bench) -> None:
        log = bench.log
        ticket = log.append(0, b"record")
        for index in range(3):
            log.side("logs", 0, b"line %d" % index)
        log.side("logs", 1, b"other")
        log.side("dead-letters", 0, b"letter\nof two lines")
        await write(log, [b"record"])
        assert ticket == 1
        assert log.acknowledged == 2
        assert len(await fetch_all(log)) == 2
        assert await side(log, "logs", 0, 3) == [b"line 0", b"line 1", b"line 2"]
        assert await side(log, "logs", 1, 1) == [b"other"]
        assert await side(log, "dead-letters", 0, 1) == [b"letter\nof two lines"]
        assert await log.read_side("nothing", 0, 0) == []

    async def test_side_records_need_no_append(self, bench: Bench) -> None:
        bench.log.side("logs", 0, b"alone")
        assert await side(bench.log, "logs", 0, 1) == [b"alone"]
        log = await bench.reopen()
        log.side("logs", 0, b"again")
        assert await side(log, "logs", 0, 2) == [b"alone", b"again"]
        assert values(await log.read_side("logs", 0, 1)) == [b"again"]
        assert await log.read_side("logs", 0, 9) == []
