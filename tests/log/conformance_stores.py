"""What the store beside every log must do; see `conformance`."""

import random

import pytest

from tests.log.tools import Bench, write


class StoreConformance:
    async def test_store_gives_what_was_put(self, bench: Bench) -> None:
        store = bench.log.store(0)
        assert store.get(b"a") is None
        store.write([(b"a", b"1"), (b"b", b""), (b"", b"root")], [])
        assert [store.get(key) for key in (b"a", b"b", b"", b"c")] == [b"1", b"", b"root", None]
        store.write([(b"a", b"2")], [b"b", b"never was"])
        assert store.scan(b"") == [(b"", b"root"), (b"a", b"2")]
        assert bench.log.store(1).scan(b"") == []

    async def test_store_scans_in_order_of_keys(self, bench: Bench) -> None:
        store = bench.log.store(1)
        keys = [b"a", b"r/1", b"r/10", b"r/2", b"r/\xff", b"r/\xff\xff", b"s", b"\xff", b"\xff\xff"]
        bench.log.store(0).write([(b"r/0", b"of the neighbour")], [])
        store.write([(key, key) for key in reversed(keys)], [])
        assert [key for key, _ in store.scan(b"")] == keys
        assert [key for key, _ in store.scan(b"r/")] == keys[1:6]
        assert [key for key, _ in store.scan(b"r/", start=b"r/10")] == keys[2:6]
        assert [key for key, _ in store.scan(b"r/", start=b"r/11", limit=2)] == keys[3:5]
        assert [key for key, _ in store.scan(b"r/", start=b"a")] == keys[1:6]
        assert store.scan(b"r/", start=b"z") == []
        assert [key for key, _ in store.scan(b"\xff")] == keys[7:]
        assert [key for key, _ in store.scan(b"", limit=1)] == keys[:1]

    async def test_store_clears_before_it_deletes_and_puts(self, bench: Bench) -> None:
        store = bench.log.store(0)
        store.write([(b"r/%d" % index, b"old") for index in range(10)] + [(b"s", b"stays")], [])
        bench.log.store(1).write([(b"r/1", b"stays")], [])
        store.write([(b"r/3", b"new"), (b"t", b"new")], [b"t"], clear=[b"r/", b"nothing"])
        assert store.scan(b"") == [(b"r/3", b"new"), (b"s", b"stays"), (b"t", b"new")]
        assert bench.log.store(1).get(b"r/1") == b"stays"

    async def test_store_clears_many_keys(self, bench: Bench) -> None:
        store = bench.log.store(0)
        store.write([(b"r/%05d" % index, b"old") for index in range(2_500)] + [(b"s", b"stays")], [])
        store.write([(b"r/1", b"new")], [], clear=[b"r/"])
        assert store.scan(b"") == [(b"r/1", b"new"), (b"s", b"stays")]
        store.write([(b"\xff\xff%d" % index, b"") for index in range(1_500)], [])
        store.write([], [], clear=[b"\xff\xff"])
        assert store.scan(b"") == [(b"r/1", b"new"), (b"s", b"stays")]

    async def test_drop_store_forgets_one_partition_only(self, bench: Bench) -> None:
        for partition in (0, 1):
            bench.log.store(partition).write([(b"k", b"v")], [])
        bench.log.drop_store(0)
        assert bench.log.store(0).scan(b"") == []
        assert bench.log.store(1).get(b"k") == b"v"

    async def test_store_is_durable_with_the_next_append(self, bench: Bench) -> None:
        bench.log.store(1).write([(b"k", b"v")], [])
        await write(bench.log, [b"record"])
        log = await bench.crash()
        assert log.store(1).scan(b"") == [(b"k", b"v")]
        log = await bench.reopen()
        assert log.store(1).get(b"k") == b"v"

    @pytest.mark.parametrize("seed", range(5))
    async def test_store_equals_a_dict(self, bench: Bench, seed: int) -> None:
        rng = random.Random(seed)
        store = bench.log.store(0)
        model: dict[bytes, bytes] = {}

        def key() -> bytes:
            return bytes(rng.choices((0, 97, 98, 255), k=rng.randrange(4)))

        for _ in range(200):
            puts = [(key(), b"%d" % rng.randrange(1000)) for _ in range(rng.randrange(5))]
            deletes = [key() for _ in range(rng.randrange(3))]
            clear = [key() for _ in range(rng.random() < 0.2)]
            store.write(puts, deletes, clear=clear)
            model = {k: v for k, v in model.items() if not k.startswith(tuple(clear))} if clear else model
            for gone in deletes:
                model.pop(gone, None)
            model.update(puts)
            prefix, start = key(), key()
            expected = [(k, model[k]) for k in sorted(model) if k.startswith(prefix) and k >= start]
            assert store.scan(prefix, start=start) == expected
            assert store.get(prefix) == model.get(prefix)
