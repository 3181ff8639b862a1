"""Bugs of snapshots and trimming: what is kept, and what goes."""

import asyncio
from typing import Any

from perdure.errors import Fenced, LogError
from perdure.log.protocol import SnapshotWriter
from perdure.partition.checkpoint import Checkpointer
from perdure.partition.snapshots import Keeper, Rounds
from tests.simulation.bugs.planting import Patch, bug
from tests.simulation.topics import SnapshotTopic


@bug("a new owner fences: earlier writers of snapshots are refused")
def a_zombie_writes_snapshots(patch: Patch) -> None:
    def fence(self: SnapshotTopic) -> int:
        return self.epoch

    def write(self: SnapshotTopic, epoch: int, number: int, values: Any) -> bool:
        self.epoch = epoch
        return right(self, epoch, number, values)

    right = SnapshotTopic.write
    patch.setattr(SnapshotTopic, "fence", fence)
    patch.setattr(SnapshotTopic, "write", write)


@bug("the journal is trimmed only below a committed watermark")
def trims_above_the_watermark(patch: Patch) -> None:
    right = Keeper._trim  # pyright: ignore[reportPrivateUsage]

    async def trim(self: Keeper, below: int) -> None:
        await right(self, max(below, self.log.end(self.partition) - 1))

    patch.setattr(Keeper, "_trim", trim)


@bug("a round has every row that changed since the last one")
def a_round_misses_rows(patch: Patch) -> None:
    right = Rounds._changes  # pyright: ignore[reportPrivateUsage]

    def changes(self: Rounds, position: Any) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        puts, deletes = right(self, position)
        return [put for put in puts if not put[0].startswith(b"r/")], deletes

    patch.setattr(Rounds, "_changes", changes)


@bug("what was deleted is deleted in the snapshot, too")
def rounds_without_tombstones(patch: Patch) -> None:
    right = Rounds._changes  # pyright: ignore[reportPrivateUsage]
    patch.setattr(Rounds, "_changes", lambda self, position: (right(self, position)[0], []))


@bug("a round is one transaction: all of it counts, or nothing")
def rounds_in_two_transactions(patch: Patch) -> None:
    async def one_round(
        self: Rounds, writer: SnapshotWriter, offset: int, puts: list[tuple[bytes, bytes]], deletes: list[bytes]
    ) -> None:
        half = len(puts) // 2
        try:
            # Positions sort first: the watermark comes before the rows that it speaks of.
            await writer.commit(puts[:half], [])
            await asyncio.sleep(0.5)
        except (Fenced, LogError):
            return
        await right(self, writer, offset, puts[half:], deletes)

    right = Rounds._round  # pyright: ignore[reportPrivateUsage]
    patch.setattr(Rounds, "_round", one_round)


@bug("a checkpoint has every row that changed since the last one")
def a_checkpoint_misses_rows(patch: Patch) -> None:
    right = Checkpointer.seal

    def seal(self: Checkpointer, offset: int, anchor: str, ticket: int) -> None:
        right(self, offset, anchor, ticket)
        sealed = self._sealed  # pyright: ignore[reportPrivateUsage]
        assert sealed is not None
        sealed[0][:] = [put for put in sealed[0] if not put[0].startswith(b"t/")]

    patch.setattr(Checkpointer, "seal", seal)
