"""What trimming does to every log; see `conformance`."""

import random

import pytest

from tests.log.tools import Bench, Reading, fetch_all, flat, write


class TrimConformance:
    async def test_the_start_moves_up_and_never_back(self, bench: Bench) -> None:
        log = bench.log
        for index in range(20):
            await write(log, [b"%d" % index, b"again"])
        records, end = await fetch_all(log), log.end(0)
        for index in (7, 8, 3, 31):
            offset = max(records[index][0], log.start(0))
            await log.trim(0, records[index][0])
            assert log.start(0) == offset
            assert log.end(0) == end
            assert await fetch_all(log) == [record for record in records if record[0] >= offset]
            with pytest.raises(IndexError):
                log.follow(0, offset - 1, Reading())
            with pytest.raises(IndexError):
                await log.fetch(0, offset - 1)
        assert log.start(1) == 0

    @pytest.mark.parametrize("beyond", [0, 1_000])
    async def test_offsets_are_not_used_again_where_all_is_gone(self, bench: Bench, beyond: int) -> None:
        log = bench.log
        await write(log, [b"a", b"b", b"c"])
        end, last = log.end(0), log.now_ms()
        await log.trim(0, end + beyond)
        assert (log.start(0), log.end(0), await log.fetch(0, end)) == (end, end, [])
        log = await bench.reopen()
        assert (log.start(0), log.end(0)) == (end, end)
        # Nothing is left that would tell a process how far the clock of a shared log was.
        assert log.shared or log.now_ms() >= last
        await write(log, [b"d"])
        assert [value for _, value in await fetch_all(log)] == [b"d"]
        assert (await fetch_all(log))[0][0] >= end

    async def test_an_empty_log_stays_empty(self, bench: Bench) -> None:
        log = bench.log
        await log.trim(0, 10)
        await log.trim(0, -1)
        assert (log.start(0), log.end(0), await log.fetch(0, 0)) == (0, 0, [])
        await write(log, [b"a"])
        assert await fetch_all(log) == [(0, b"a")]

    async def test_the_start_survives_a_close(self, bench: Bench) -> None:
        await write(bench.log, [b"%d" % index for index in range(10)])
        await bench.log.trim(0, 4)
        log = await bench.reopen()
        assert [value for _, value in await fetch_all(log)] == [b"%d" % index for index in range(4, 10)]
        await log.trim(0, 2)
        assert log.start(0) == 4

    async def test_crashes_between_appends_and_trims(self, bench: Bench) -> None:
        log, rng = bench.log, random.Random(11)
        kept: dict[int, list[tuple[int, bytes]]] = {0: [], 1: []}
        for life in range(4):
            for index in range(30):
                partition = rng.randrange(2)
                record = b"life %d record %d" % (life, index)
                begins = log.end(partition)
                await write(log, [record] * rng.randrange(1, 4), partition)
                kept[partition] += [(offset, record) for offset in range(begins, log.end(partition))]
                if rng.random() < 0.3:
                    offset = rng.randrange(log.start(partition), log.end(partition) + 1)
                    await log.trim(partition, offset)
                    kept[partition] = [record for record in kept[partition] if record[0] >= offset]
            log = await bench.crash()
            for partition in (0, 1):
                assert await fetch_all(log, partition) == kept[partition]

    async def test_readers_above_the_start_go_on(self, bench: Bench) -> None:
        log = bench.log
        await write(log, [b"a", b"b"])
        reading = Reading()
        log.follow(0, log.end(0) - 1, reading)
        await log.trim(0, log.end(0) - 1)
        await write(log, [b"c"])
        assert await reading.until(2) == [b"b", b"c"]
        assert flat(reading.batches) == await fetch_all(log)
