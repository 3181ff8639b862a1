"""A flipped bit anywhere in a data directory: the engine refuses it loudly, or it means nothing."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from perdure import LogError
from tests.copies import copy_log, remove_log
from tests.system.shop import Shop, fill, same_as_before

FLIPS = int(os.environ.get("PERDURE_FLIPS", "24"))


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A directory with tables and WALs of several lives, and what its runs came to."""
    folder = tmp_path_factory.mktemp("victim") / "log"

    async def make() -> dict[str, str]:
        results: dict[str, str] = {}
        for life in range(3):
            shop = Shop()
            async with shop.engine(folder) as engine:
                results |= await fill(shop, engine)
                if life == 2:
                    copy_log(folder, folder.parent / "hot")
        return results

    results = asyncio.run(make())
    return folder.parent / "hot", results


ADVICE = ("restore", "remove this file", "it should read", "open it with partitions=", "install the version")


async def test_a_flipped_bit_is_refused_or_means_nothing(victim: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    hot, results = victim
    rng = random.Random(5)
    files = sorted(
        (path.relative_to(hot) for path in hot.rglob("*") if path.is_file() and _matters(path)),
        key=lambda path: path.name,
    )
    assert {path.suffix for path in files} >= {".sst", ".log"}
    refused: list[str] = []
    for trial in range(FLIPS):
        copy = tmp_path / str(trial)
        copy_log(hot, copy)
        path = copy / files[trial % len(files)]
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            await same_as_before(Shop(), copy, results)
        except LogError as error:
            refused.append(str(error))
        remove_log(copy)
    assert len(refused) > FLIPS // 2
    assert not [why for why in refused if not any(advice in why for advice in ADVICE)]


def _matters(path: Path) -> bool:
    """Not RocksDB's notes for people, nor locks."""
    return path.name not in ("LOCK", "LOG", "IDENTITY", "lock") and not path.name.startswith(("OPTIONS", "LOG.old"))
