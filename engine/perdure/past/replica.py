"""A partition as it was, for runs that are begun on what it holds and write nothing."""

from typing import Any

import msgspec

from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.partition import Processor
from perdure_schemas.records import Owner, Record


class Replica(Processor):
    """What its runs would write goes nowhere, and is remembered.

    It does not perform: a step that the log does not hold is held back, as on a partition that is being given away.
    """

    def __init__(self, view: View, code: str) -> None:
        self.view = view
        self.partition = view.partition
        self.code = code
        self.owner = Owner(0, "replica")
        self.performing = False
        self.halted = ""
        self.written: list[Record] = []

    def append(self, record: Record) -> int:
        self.written.append(record)
        return 0

    def append_outcome(self, record: Any) -> None:
        self.written.append(record)

    def opine(self, record: Any) -> None:
        self.written.append(record)

    def side(self, topic: str, record: msgspec.Struct) -> None:
        """Progress was reported when it was made."""

    def wake(self, run: str) -> None:
        """Nothing here outlives the replay."""

    def rest(self, run: str) -> None:
        """As `wake`."""

    def release_run(self, run: str) -> None:
        """The view is its maker's."""

    def ahead(self, run: RunState, lines: Any = None) -> bool:
        """Any code may be tried."""
        return False
