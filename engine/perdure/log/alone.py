"""The group of a log that belongs to one process: its only member is assigned everything, at once."""

from contextvars import Context

from perdure.errors import LogError
from perdure.log.protocol import Member


class Alone:
    """See `Log.join`."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._member: Member | None = None

    def join(self, member: Member) -> None:
        if self._member is not None:
            raise LogError("this log has its member already: a process is one member of its group")
        self._member = member
        # An empty context: what the member starts belongs to itself, not to whoever opened it.
        Context().run(member.assigned, range(self._partitions))

    def leave(self) -> None:
        self._member = None

    def confirmed(self, partition: int) -> bool:
        if not 0 <= partition < self._partitions:
            raise IndexError(f"partition {partition}: this log has {self._partitions}")
        return self._member is not None
