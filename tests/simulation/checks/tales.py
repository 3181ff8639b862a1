"""What became of each run, told from the log by a second reading of the rules that shares nothing with the folds.

A tale has the run's request, the outcome of each op (the first that counts), its end, and what each wait consumed.
Records are JSON here; `Teller` reads those of one partition, in log order.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.evidence.entries import Entry, Journal

AT_ONCE = ("send", "cancel", "rerun")
"""Openings that are their own outcome; an enqueue is one, too."""
ALONE_FROM = 2
"""A step of a queue that died so often with its member is had only by one that does nothing else."""
LONGEST_MS = 3_600_000
"""Nobody came for a step of a queue: it is asked for again after so long at the latest."""


@dataclass
class Op:
    """One op. `outcome`: the record that decided it, `closed` the one by which user code gave it up."""

    name: str
    type: str
    digest: str = ""
    opened: Entry | None = None
    outcome: Entry | None = None
    closed: Entry | None = None
    attempt: int = 1
    due: int | None = None
    setter: int = -1
    key: str = ""
    where: str = ""
    gave_back: bool = False
    retried: list[Entry] = field(default_factory=list[Entry])
    """Fires that let a further attempt begin."""
    lease_ms: int = 0
    claim: str = ""
    """Of the member of a worker pool that has the step."""
    beat: int = 0
    resting: bool = False
    """It failed, and its next attempt is not due yet."""
    deaths: int = 0
    unclaimed: int = 0
    granted: dict[str, Entry] = field(default_factory=dict[str, Entry])
    """Claims that were granted."""

    @property
    def is_open(self) -> bool:
        return self.opened is not None and self.outcome is None and self.closed is None

    @property
    def decided(self) -> Entry | None:
        """The first record after which no attempt may begin."""
        both = [entry for entry in (self.outcome, self.closed) if entry is not None]
        return min(both, key=lambda entry: entry.offset, default=None)


@dataclass
class Cursor:
    """What was consumed under one key, by position in the matcher's partition."""

    g: int = 0
    taken: dict[int, str] = field(default_factory=dict[int, str])
    """Position → event. Consumed here, or known here as consumed through another key."""


class Taking(NamedTuple):
    """An event is consumed by a wait: what was consumed before, and which waits were open on the key."""

    offer: Entry
    op: Op
    before: frozenset[str]
    waits: tuple[Op, ...]


@dataclass
class Code:
    """Code that owned the partition for a while. `number` is 0 until it is known here, from offset `since` on."""

    digest: str
    number: int = 0
    since: int = -1


class Listed(NamedTuple):
    """A subscription: which waits stood open on the key when it got its number."""

    key: str
    g: int
    waits: tuple[str, ...]


@dataclass
class Tale:
    """One run."""

    id: str
    request: Entry | None = None
    status: str = "queued"
    end: Entry | None = None
    handler: str = ""
    """The function that is to handle its end."""
    attempt: int = 1
    ops: dict[str, Op] = field(default_factory=dict[str, Op])
    timers: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Name → (due, setter) of the run's own timers."""
    keys: dict[str, Cursor] = field(default_factory=dict[str, Cursor])
    consumed: dict[str, str] = field(default_factory=dict[str, str])
    """Event → the op that has it; empty for what the run's forerunner consumed."""
    taken: list["Taking"] = field(default_factory=list["Taking"])
    """Offers that were taken, in log order."""
    listed: list["Listed"] = field(default_factory=list["Listed"])
    """What the matchers must have been told."""
    parked: int = 0
    parked_by: str = ""
    """The code that could not go on with it."""
    words: list[tuple[int, Code]] = field(default_factory=list[tuple[int, Code]])
    """Where its code took it further, and which code that was. Where any may go on, one without a number."""
    crashes: dict[str, int] = field(default_factory=dict[str, int])
    """Op → how often its process died with it, for steps that have no outcome."""
    ignored: list[Entry] = field(default_factory=list[Entry])
    """Records of this run that changed nothing."""
    waits: bool = False
    """It would have started, and its function is paused."""

    @property
    def function(self) -> str:
        return "" if self.request is None else str(self.request.record["function"])

    @property
    def cause(self) -> str:
        return "" if self.request is None else str(self.request.record["cause"])

    @property
    def live(self) -> bool:
        return self.end is None

    def waiting(self, key: str) -> list[Op]:
        """Open waits on a key, in order of opening."""
        return [op for op in self.ops.values() if op.key == key and op.is_open]

    def subscribe(self, key: str) -> None:
        """The list of open waits on the key goes to its matcher, with the next number."""
        cursor = self.keys[key]
        cursor.g += 1
        self.listed.append(Listed(key, cursor.g, tuple(op.name for op in self.waiting(key))))


class Receipt(NamedTuple):
    """An event comes for the first time, where this code is the current one."""

    entry: Entry
    definition: dict[str, Any]


class Teller:
    """Reads one partition."""

    def __init__(self) -> None:
        self.tales: dict[str, Tale] = {}
        self.owner: tuple[int, str] = (0, "")
        self.code = Code("")
        self.number = 0
        self.definitions: dict[int, dict[str, Any]] = {}
        self.numbers: dict[str, list[tuple[int, int]]] = {}
        """Of each code that is known here: (offset, its number from there on)."""
        self.receipts: dict[str, Receipt] = {}
        self.paused: set[str] = set()

    def read(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.tell(entry)

    def tell(self, entry: Entry) -> None:
        tell = getattr(self, "_" + entry.kind.replace(".", "_"), None)
        if tell is not None:
            tell(entry, entry.record)

    # Who owns, and what the code is

    def _owner_started(self, entry: Entry, record: dict[str, Any]) -> None:
        owner = record["owner"]
        if owner["number"] > self.owner[0]:
            self.owner = owner["number"], owner["token"]
            known = self.numbers.get(record["code"])
            self.code = Code(record["code"], *((known[-1][1], entry.offset) if known else ()))
            if known:
                self._try_parked(entry)

    def _app_paths(self, entry: Entry, record: dict[str, Any]) -> None:
        self.definitions[record["number"]] = record["definition"]
        digest = record["definition"]["digest"]
        self.numbers.setdefault(digest, []).append((entry.offset, record["number"]))
        if self.code.digest == digest and not self.code.number:
            self.code.number, self.code.since = record["number"], entry.offset
        elif self.code.digest == digest:
            self.code = Code(digest, record["number"], entry.offset)

    def _app_activated(self, entry: Entry, record: dict[str, Any]) -> None:
        if record["number"] <= self.number:
            return
        self.number = record["number"]
        self._try_parked(entry)

    def _try_parked(self, entry: Entry) -> None:
        """What other code has parked is tried by the owner's."""
        for tale in self.tales.values():
            if tale.live and tale.status == "parked" and tale.parked_by != self.code.digest:
                self._try(tale, entry)

    def _try(self, tale: Tale, entry: Entry) -> None:
        tale.status = "running"
        tale.words.append((entry.offset, Code("")))

    def _said(self, tale: Tale, entry: Entry) -> None:
        """The run's code took it further, whoever wrote it: by the code that owns the partition."""
        assert not tale.waits, f"{entry.raw!r}: its function is paused, and it had not started"
        tale.words.append((entry.offset, self.code))

    def _function(self, tale: Tale) -> dict[str, Any]:
        assert tale.request is not None
        number = max(tale.request.record.get("number", 0), self.number)
        return next((one for one in self._defined(number)["functions"] if one["id"] == tale.function), {})

    def _defined(self, number: int) -> dict[str, Any]:
        return self.definitions.get(number) or {"functions": []}

    def _event_received(self, entry: Entry, record: dict[str, Any]) -> None:
        self.receipts.setdefault(record["event"]["id"], Receipt(entry, self._defined(self.number)))

    # Runs

    def _run_requested(self, entry: Entry, record: dict[str, Any]) -> None:
        if record["run"] in self.tales:
            return
        tale = self.tales[record["run"]] = Tale(record["run"], entry)
        heritage = record.get("heritage") or {}
        tale.consumed = dict.fromkeys(heritage.get("taken", {}), "")
        for key in heritage.get("keys", {}):
            tale.keys[key] = Cursor()
        due = entry.at + record["delay_ms"] if "delay_ms" in record else record.get("due")
        if due is not None and due > entry.at:
            tale.timers["start"] = due, entry.offset
        else:
            self._start(tale, entry)

    def _function_paused(self, entry: Entry, record: dict[str, Any]) -> None:
        function = record["function"]
        if record["paused"]:
            self.paused.add(function)
            return
        self.paused.discard(function)
        for tale in self.tales.values():
            if tale.live and tale.waits and tale.function == function:
                tale.waits = False
                self._start(tale, entry)

    def _start(self, tale: Tale, entry: Entry) -> None:
        tale.waits = tale.function in self.paused
        if tale.waits:
            return
        tale.status = "running"
        timeout_ms = self._function(tale).get("timeout_ms")
        if timeout_ms is not None:
            tale.timers["timeout"] = entry.at + timeout_ms, entry.offset

    def _end(self, tale: Tale, status: str, entry: Entry) -> None:
        tale.status, tale.end = status, entry
        if tale.request is not None and status in ("failed", "cancelled"):
            tale.handler = self._function(tale).get("on_failure" if status == "failed" else "on_cancel", "")
        for key, cursor in tale.keys.items():
            if tale.waiting(key):
                cursor.g += 1
                tale.listed.append(Listed(key, cursor.g, ()))

    def _run_cancel_requested(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self.tales.setdefault(record["run"], Tale(record["run"]))
        if tale.live:
            self._end(tale, "cancelled", entry)

    def _live(self, entry: Entry, run: str) -> Tale | None:
        tale = self.tales.get(run)
        if tale is None:
            return None
        if not tale.live:
            tale.ignored.append(entry)
            return None
        return tale

    def _run_parked(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        owner = record["owner"]
        if tale is not None and (owner["number"], owner["token"]) == self.owner and tale.status == "running":
            tale.status = "parked"
            tale.parked += 1
            tale.parked_by = record["code"]

    def _run_unparked(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is not None and tale.status == "parked":
            self._try(tale, entry)

    def _run_errored(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is not None and tale.status == "running" and record["attempt"] == tale.attempt:
            tale.attempt += 1
            tale.timers["retry"] = entry.at + record["retry_in_ms"], entry.offset

    def _run_finished(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is not None:
            for name in record.get("closes", ()):
                self._close(tale, name, entry)
            self._end(tale, record["status"], entry)

    # Ops

    def _step_completed(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is not None:
            op = tale.ops.setdefault(record["op"], Op(record["op"], "step", record["digest"]))
            if op.decided is None:
                op.outcome = entry
                self._said(tale, entry)
            else:
                tale.ignored.append(entry)

    def _step_failed(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is None:
            return
        op = tale.ops.setdefault(record["op"], Op(record["op"], "step", record["digest"]))
        stale = record["attempt"] != op.attempt or (op.type == "queued" and record.get("claim", "") != op.claim)
        if op.decided is not None or stale:
            tale.ignored.append(entry)
            return
        if op.type != "queued" or "retry_in_ms" not in record:
            # A queue's member, that fails and is to try again, says nothing of the way that the run went.
            self._said(tale, entry)
        if "retry_in_ms" in record:
            op.attempt += 1
            op.claim, op.resting = "", op.type == "queued"
            op.due, op.setter = entry.at + record["retry_in_ms"], entry.offset
        else:
            op.outcome = entry

    def _step_attempted(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        owner = record["owner"]
        if tale is None or (owner["number"], owner["token"]) != self.owner:
            return
        op = tale.ops.get(record["op"])
        if op is None or op.decided is None:
            tale.crashes[record["op"]] = tale.crashes.get(record["op"], 0) + 1

    # Steps in queues

    def _queued(self, entry: Entry, record: dict[str, Any]) -> Op | None:
        tale = self._live(entry, record["run"])
        op = tale.ops.get(record["op"]) if tale is not None else None
        return op if op is not None and op.type == "queued" and op.is_open else None

    def _step_claimed(self, entry: Entry, record: dict[str, Any]) -> None:
        op = self._queued(entry, record)
        if op is None:
            return
        beat = record.get("beat", 0)
        if op.claim == record["claim"]:
            if beat > op.beat:
                op.beat = beat
                op.due, op.setter = entry.at + op.lease_ms, entry.offset
            return
        may_ask = op.deaths < ALONE_FROM or record.get("alone", False)
        if may_ask and not (beat or op.claim or op.resting) and record["attempt"] == op.attempt:
            op.claim, op.beat, op.unclaimed = record["claim"], 0, 0
            op.granted[op.claim] = entry
            op.due, op.setter = entry.at + op.lease_ms, entry.offset

    def _step_answered(self, entry: Entry, record: dict[str, Any]) -> None:
        if record["granted"]:
            op = self.tales[record["run"]].ops[record["op"]]
            assert record["claim"] in op.granted, f"I6: {entry.raw!r}: another member has it, or nobody may"

    def _step_released(self, entry: Entry, record: dict[str, Any]) -> None:
        op = self._queued(entry, record)
        if op is not None and op.claim == record["claim"]:
            op.deaths += record.get("died", False)
            self._wait_for_a_member(op, entry)

    def _wait_for_a_member(self, op: Op, entry: Entry) -> None:
        op.claim, op.resting = "", False
        longest = max(LONGEST_MS, op.lease_ms)
        op.due, op.setter = entry.at + min(op.lease_ms << min(op.unclaimed, 20), longest), entry.offset

    def _lease_ended(self, op: Op, entry: Entry) -> None:
        """Or a retry is due, or nobody came."""
        if op.resting:
            op.retried.append(entry)
        elif op.claim:
            op.deaths += 1
        else:
            op.unclaimed += 1
        self._wait_for_a_member(op, entry)

    # Other ops

    def _op_opened(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is None:
            return
        if record["op"] in tale.ops:
            tale.ignored.append(entry)
            return
        opening = record["opening"]
        op = tale.ops[record["op"]] = Op(record["op"], opening["type"], record["digest"], entry)
        self._said(tale, entry)
        if op.type in AT_ONCE or (op.type == "call" and not opening["awaited"]):
            op.outcome = entry
        elif op.type == "queued":
            op.lease_ms = opening["lease_ms"]
            self._wait_for_a_member(op, entry)
        elif op.type == "sleep":
            until = opening.get("until")
            op.due = max(entry.at, until if until is not None else entry.at + opening.get("for_ms", 0))
            op.setter = entry.offset
        elif op.type == "wait":
            op.key, op.where = opening["key"], opening.get("where", "")
            if opening.get("timeout_ms") is not None:
                op.due, op.setter = entry.at + opening["timeout_ms"], entry.offset
            tale.keys.setdefault(op.key, Cursor())
            tale.subscribe(op.key)

    def _op_closed(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is not None:
            self._close(tale, record["op"], entry)

    def _close(self, tale: Tale, name: str, entry: Entry) -> None:
        op = tale.ops.setdefault(name, Op(name, "step"))
        if op.closed is not None:
            return
        op.closed = entry
        self._said(tale, entry)
        if op.key and op.outcome is None:
            tale.subscribe(op.key)
        elif op.outcome is not None and op.outcome.kind == "match.offered":
            self._give_back(tale, op)

    def _give_back(self, tale: Tale, op: Op) -> None:
        """User code never saw what the wait consumed: others may have it, through each key that had it marked."""
        assert op.outcome is not None
        event = op.outcome.record["event_id"]
        if tale.consumed.get(event) != op.name:
            return
        op.gave_back = True
        del tale.consumed[event]
        for key, cursor in tale.keys.items():
            marked = [position for position, known in cursor.taken.items() if known == event]
            for position in marked:
                del cursor.taken[position]
            if marked and tale.waiting(key):
                tale.subscribe(key)

    def _run_answered(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        op = tale.ops.get(record["op"]) if tale is not None else None
        if op is not None and op.is_open and op.type in ("call", "watch"):
            op.outcome = entry

    def _match_offered(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["run"])
        if tale is None:
            return
        if record.get("rule", -1) >= 0:
            self._end(tale, "cancelled", entry)
            return
        cursor = tale.keys.get(record["key"])
        if cursor is None or record["g"] != cursor.g:
            tale.ignored.append(entry)
            return
        event = record["event_id"]
        cursor.taken[record["position"]] = event
        if event in tale.consumed:
            tale.subscribe(record["key"])
            return
        op = tale.ops[record["op"]]
        assert op.is_open, f"I12: {entry.raw!r} answers the latest subscription, which lists a wait that is not open"
        tale.taken.append(Taking(entry, op, frozenset(tale.consumed), tuple(tale.waiting(op.key))))
        tale.consumed[event] = op.name
        op.outcome = entry
        if tale.waiting(op.key):
            tale.subscribe(op.key)

    def _timer_fired(self, entry: Entry, record: dict[str, Any]) -> None:
        tale = self._live(entry, record["entity"])
        if tale is None:
            return
        name = record["timer"]
        if name in tale.timers:
            self._run_timer(tale, name, entry)
            return
        op = tale.ops.get(name)
        if op is None or op.decided is not None or op.setter != record["setter"] or op.due is None or entry.at < op.due:
            tale.ignored.append(entry)
        elif op.type == "step":
            op.due = None
            op.retried.append(entry)
        elif op.type == "queued":
            self._lease_ended(op, entry)
        else:
            op.outcome = entry
            if op.key:
                tale.subscribe(op.key)

    def _run_timer(self, tale: Tale, name: str, entry: Entry) -> None:
        due, setter = tale.timers[name]
        if setter != entry.record["setter"] or entry.at < due:
            tale.ignored.append(entry)
            return
        del tale.timers[name]
        if name == "timeout":
            self._end(tale, "failed", entry)
        elif name == "start":
            self._start(tale, entry)


def tell(journal: Journal) -> tuple[dict[str, Tale], list[Receipt]]:
    """All runs and all events of a log."""
    tellers = tellers_of(journal).values()
    tales = {run: tale for teller in tellers for run, tale in teller.tales.items()}
    return tales, [receipt for teller in tellers for receipt in teller.receipts.values()]


def tellers_of(journal: Journal) -> dict[int, Teller]:
    """Each partition of a log, read without what came a second time."""
    tellers: dict[int, Teller] = {}
    for partition, entries in journal.items():
        teller = tellers[partition] = Teller()
        teller.read(entries)
    return tellers
