"""All that is known of a world when it has come to rest: what the checks look at."""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.evidence.entries import Entry, Journal, without_repetitions
from tests.simulation.checks.tales import Receipt, Tale, Teller, tellers_of
from tests.simulation.programs.ledger import Ledger


@dataclass
class Evidence:
    """`journal`: every record that was ever in the log, also what was trimmed since."""

    journal: Journal
    ledger: Ledger
    events: set[str]
    """Events that the log has acknowledged to clients."""
    asked: set[str]
    """Runs that the log has acknowledged to clients, enqueued or run again."""
    cancelled: set[str]
    """Runs whose cancel the log has acknowledged to clients."""
    may_cancel: set[str] = field(default_factory=set[str])
    """Runs whose cancel clients have asked for, acknowledged or not."""
    states: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """What the engine says of each run that it knows: (function, status)."""
    deaths: int = 0
    """How often a process died."""
    came: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """(partition, offset) → the how manieth record of all it was, where the brokers' clocks do not tell."""
    codes: dict[str, str] = field(default_factory=dict[str, str])
    """Life of a pod → digest of the code that it ran."""
    taken_up: dict[str, int] = field(default_factory=dict[str, int])
    """Token of an owner → what it had folded of the partition when it took it up."""
    exact_threads: bool = False
    """Bodies in threads begin when the engine begins them."""
    effective: Journal = field(default_factory=dict[int, list[Entry]])
    tellers: dict[int, Teller] = field(default_factory=dict[int, Teller])
    tales: dict[str, Tale] = field(default_factory=dict[str, Tale])
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    repeated: int = 0

    def __post_init__(self) -> None:
        self.effective, self.repeated = without_repetitions(self.journal)
        self.tellers = tellers_of(self.effective)
        for teller in self.tellers.values():
            self.tales.update(teller.tales)
            self.receipts += teller.receipts.values()

    def every(self, *kinds: str) -> list[Entry]:
        """Records of these kinds that count, partition by partition in log order."""
        return [entry for entries in self.effective.values() for entry in entries if entry.kind in kinds]

    def order(self, entry: Entry) -> int:
        """Of two records the one with the lower order was there before the other, by whatever clock."""
        return self.came[entry.partition, entry.offset] if self.came else entry.ms

    def payload(self, payload: dict[str, Any], name: str) -> Any:
        """What a payload holds; `name` is the field that a record referred to has it in."""
        ref = payload.get("ref")
        if ref is None:
            return payload["inline"]
        record = self.journal[ref["partition"]][ref["offset"]].record
        if name == "event" and record["kind"] in ("event.received", "event.keyed"):
            return record["event"]
        found = record["opening"][name] if record["kind"] == "op.opened" else record[name]
        return self.payload(found, name)

    def trigger(self, tale: Tale) -> dict[str, Any]:
        """The event that a run has for a trigger."""
        assert tale.request is not None
        event = self.payload(tale.request.record["event"], "event")
        return event if isinstance(event, dict) else json.loads(event)

    def result(self, run: str) -> Any:
        """The result of a completed run, or of the one that it continued as; None if there is none."""
        tale = self.tales.get(run)
        if tale is None or tale.end is None or tale.status != "completed":
            return None
        return self.payload(tale.end.record["result"], "result")
