"""What one flush of the embedded log carries: records on their way in, and the flight that takes them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.errors import LogError
from perdure.log.protocol import Batch
from perdure.log.side import Ends, SideRecord


class Entry(NamedTuple):
    """A command on its way in; with `done`, the place of one that nobody needs any more."""

    queue: str
    value: bytes
    done: int | None = None


class Lists(dict[int, list[bytes]]):
    """Records by partition. A missing list is made, once per partition and flush, where the number is checked too."""

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self._partitions = partitions
        self.commands: list[Entry] = []

    def __bool__(self) -> bool:
        return len(self) > 0 or bool(self.commands)

    def __missing__(self, partition: int) -> list[bytes]:
        if self._partitions == 0:
            raise LogError("the log is not open: `await log.open()` first")
        if not 0 <= partition < self._partitions:
            raise IndexError(f"partition {partition}: this log has {self._partitions}")
        made = self[partition] = []
        return made


@dataclass(slots=True)
class Flight:
    """What one flush writes, kept until it is durable; `batches`, the ends and `sequence` come with the writing."""

    lists: Lists
    ticket: int
    side: list[SideRecord]
    batches: list[Batch] = field(default_factory=list[Batch])
    side_ends: Ends = field(default_factory=Ends)
    queue_ends: dict[str, int] = field(default_factory=dict[str, int])
    sequence: int = 0
