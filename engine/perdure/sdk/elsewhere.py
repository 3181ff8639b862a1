"""What becomes of runs whose partition another pod owns: asked through the log, as one run watches another.

    this pod ── run.watched ──► the run's partition ── its owner: run.answered ──► the partition of this pod's own id

The id is a run's by its form and no run's in truth: folds ignore what is answered to it, and this pod follows its
partition. Nobody needs to know where a pod can be reached.
"""

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.errors import EngineClosed, UnknownRun
from perdure.flow import decode
from perdure.flow.routing import partition_of_run, run_id
from perdure.log.protocol import Batch, Log, Reader
from perdure_schemas.records import Parent, RunAnswered, RunWatched, V

_ENCODE = msgspec.json.Encoder().encode


class Elsewhere:
    """One pod's questions."""

    def __init__(self, log: Log, app: str) -> None:
        self._log = log
        self._me = run_id(app, "asks", secrets.token_hex(16))
        self._asked: dict[str, asyncio.Future[RunAnswered]] = {}
        self._reader: Reader | None = None
        self._closed = False
        self._next = 0
        """Offset up to which answers were read."""

    @property
    def _mine(self) -> int:
        return partition_of_run(self._me, self._log.partitions)

    async def ask(self, run: str, want: str) -> RunAnswered:
        """The run's `status` now, or its `result` once it has ended.

        Raises `UnknownRun`, `ValueError`, `EngineClosed`.
        """
        if self._closed:
            raise EngineClosed.awaiting(run)
        if self._reader is None:
            self._follow()
        op = f"{want}/{run}"
        asked = self._asked.get(op)
        if asked is None:
            self._watch(op)
            asked = self._asked[op] = asyncio.get_running_loop().create_future()
        # Who gives up takes nobody's answer with it, and whoever asks again waits for the same one.
        answer = await asyncio.shield(asked)
        if answer.status == "unknown":
            raise UnknownRun(f"no run {run!r}: it never was, or ended longer ago than the window")
        return answer

    def _follow(self) -> None:
        self._next = self._log.end(self._mine)
        self._reader = self._log.follow(self._mine, self._next, self._read, failed=self._failed)

    def _watch(self, op: str) -> None:
        want, _, run = op.partition("/")
        where = partition_of_run(run, self._log.partitions)
        self._log.append(where, _ENCODE(RunWatched(run, Parent(self._me, op), want, v=V)))

    def _read(self, batch: Batch) -> None:
        self._next = batch.offset + len(batch.values)
        me = self._me.encode()
        for raw in batch.values:
            record = decode(raw) if me in raw else None
            if isinstance(record, RunAnswered) and record.run == self._me:
                asked = self._asked.pop(record.op, None)
                if asked is not None:
                    asked.set_result(record)

    def _failed(self, error: Exception) -> None:
        self._reader = None
        if self._log.start(self._mine) > self._next:
            # Trimmed before it was read, and the answers with it.
            self._follow()
            for op in self._asked:
                self._watch(op)
            return
        asked, self._asked = self._asked, {}
        fail_all(asked.values(), error)

    def close(self) -> None:
        """Nobody is answered any more."""
        if self._reader is not None:
            self._reader.close()
        self._closed = True
        asked, self._asked = self._asked, {}
        for op, one in asked.items():
            fail_all([one], EngineClosed.awaiting(op.partition("/")[2]))


def fail_all(waiting: "Iterable[asyncio.Future[Any]]", error: Exception) -> None:
    """Tell all who wait. Who gave up meanwhile left a future that nobody asks for its error."""
    for one in waiting:
        if not one.done():
            one.set_exception(error)
            one.exception()
