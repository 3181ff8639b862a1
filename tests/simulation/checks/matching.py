"""I12: each wait consumes the earliest unconsumed match since its run's trigger; and every offer that is due is made.

Looks, none of which knows the folds: when events came, what runs told the matchers, what these offered, what was taken.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.evidence.entries import Entry, Journal
from tests.simulation.checks.tales import Listed, Tale

LOOKBACK_MS = 86_400_000
"""All functions of the programs have the usual look-back."""
SLACK_MS = 3_600_000
_WHERE = re.compile(r"async\.data\.n > (-?\d+)")


def accepts(where: str, event: Mapping[str, Any]) -> bool:
    """Whether a condition of the programs holds."""
    if not where:
        return True
    found = _WHERE.fullmatch(where)
    assert found, f"a condition that no program has: {where!r}"
    n = event["data"].get("n")
    return isinstance(n, int) and n > int(found[1])


Came = dict[str, int]
"""Where and when an event came to the topic of events."""


class Copy(NamedTuple):
    """An event under a key. `at`: its own log time; `came`: that of its copy; `topic`: None if it came by none."""

    position: int
    at: int
    came: int
    event: dict[str, Any]
    source: tuple[int, int]
    topic: Came | None

    @property
    def moment(self) -> int:
        return self.topic["at"] if self.topic else self.at


@dataclass
class Kept:
    """One join key, as its matcher's partition has it."""

    copies: list[Copy] = field(default_factory=list[Copy])
    subs: dict[tuple[str, int], "Sub"] = field(default_factory=dict[tuple[str, int], "Sub"])


@dataclass
class Sub:
    record: dict[str, Any]
    hole: int | None = None
    blind: bool = False


class Matcher:
    """A matcher's partition, read again. `offers`: what it must have offered, in order."""

    def __init__(self) -> None:
        self.keys: dict[str, Kept] = defaultdict(Kept)
        self.offers: list[tuple[Any, ...]] = []
        self._arrived: dict[int, int] = defaultdict(int)

    def read(self, entries: list[Entry]) -> None:
        for entry in entries:
            if "from" in entry.record:
                self._arrived[entry.record["from"][0]] = entry.record["from"][1]
            if entry.kind == "event.keyed":
                self._keyed(entry)
            elif entry.kind == "match.subscribed":
                self._subscribed(entry)

    def _keyed(self, entry: Entry) -> None:
        record = entry.record
        kept = self.keys[record["key"]]
        copy = Copy(entry.offset, record["at"], entry.at, record["event"], tuple(record["from"]), record.get("came"))
        kept.copies.append(copy)
        for name, sub in list(kept.subs.items()):
            if self._look(kept, sub, kept.copies if sub.blind else [copy], entry.at):
                del kept.subs[name]

    def _subscribed(self, entry: Entry) -> None:
        record = entry.record
        kept = self.keys[record["key"]]
        name = record["run"], record.get("rule", -1)
        kept.subs.pop(name, None)
        if record.get("waits"):
            sub = Sub(record)
            if not self._look(kept, sub, kept.copies, entry.at):
                kept.subs[name] = sub

    def _look(self, kept: Kept, sub: Sub, copies: list[Copy], at: int) -> bool:
        """Offer the first copy that a listed wait accepts. Whether there was one."""
        record = sub.record
        own = record.get("own")
        trigger = -1
        if own is not None:
            source = record.get("source", -1)
            sub.blind = self._arrived[source] < own
            if sub.blind:
                return False
            trigger = next((copy.position for copy in kept.copies if copy.source == (source, own)), -1)
        for copy in copies:
            if not self._counts(record, copy, trigger, at):
                continue
            wait = next((one for one in record["waits"] if accepts(one.get("where", ""), copy.event)), None)
            if wait is None:
                sub.hole = copy.position if sub.hole is None else sub.hole
                continue
            rule = record.get("rule", -1)
            offer = (record["run"], record["key"], record["g"], wait["op"], rule, copy.event["id"], copy.position)
            self.offers.append((*offer, sub.hole))
            return True
        return False

    def _counts(self, record: dict[str, Any], copy: Copy, trigger: int, at: int) -> bool:
        """After the trigger, within the look-back, not consumed."""
        if copy.event["id"] == record.get("event_id"):
            return False
        if copy.at <= at - LOOKBACK_MS or copy.came + LOOKBACK_MS + 1 <= at:
            return False
        told = _told_by_topic(record.get("came"), copy.topic)
        if told is None:
            told = copy.moment >= record.get("since", 0) if record.get("own") is None else copy.position > trigger
        if not told:
            return False
        if record.get("until") is not None and copy.moment > record["until"]:
            return False
        if copy.position in record.get("but", ()):
            return True
        return copy.position > record.get("upto", -1) and copy.position not in record.get("also", ())


def _told_by_topic(trigger: Came | None, came: Came | None) -> bool | None:
    """Whether the topic of events had it after the trigger; None: it does not tell."""
    if not trigger or not came:
        return None
    if trigger["at"] == came["at"]:
        return trigger["offset"] < came["offset"] if trigger["partition"] == came["partition"] else None
    return trigger["at"] < came["at"]


def check_matching(journal: Journal, tales: Mapping[str, Tale]) -> None:
    """The looks. `journal`: without what came a second time, and at rest: nothing is on its way."""
    _whoever_asks_knows_when_it_came(journal, tales)
    matchers: dict[int, Matcher] = {}
    for partition, entries in journal.items():
        matcher = matchers[partition] = Matcher()
        matcher.read(entries)
        made = sorted(_offers_of(journal, partition))
        due = sorted(matcher.offers, key=repr)
        assert sorted(made, key=repr) == due, f"I12: partition {partition} {_first_difference(made, due)}"
    _subscriptions_are_told(journal, tales)
    copies = {key: kept.copies for matcher in matchers.values() for key, kept in matcher.keys.items()}
    for tale in tales.values():
        _earliest_is_taken(tale, copies)


def _whoever_asks_knows_when_it_came(journal: Journal, tales: Mapping[str, Tale]) -> None:
    """Where and when an event came to its topic goes with its copies, and with the runs that it starts."""
    came: dict[str, list[Any]] = defaultdict(list)
    entries = [entry for entries in journal.values() for entry in entries]
    for entry in entries:
        if entry.kind == "event.received":
            came[entry.record["event"]["id"]].append(entry.record.get("came"))
    for entry in entries:
        told = entry.record.get("came")
        if entry.kind == "event.keyed":
            known = came[entry.record["event"]["id"]]
            assert told in known, f"I12: {entry.raw!r} of {known}"
        elif entry.kind == "run.requested" and entry.record["cause"] == "event":
            known = came[entry.record["event_id"]]
            assert told in known, f"I12: {entry.raw!r} of {known}"
            assert not told or entry.record["since"] == told["at"], f"I12: {entry.raw!r} counts from elsewhere"
        elif entry.kind == "match.subscribed" and entry.record.get("waits"):
            request = tales[entry.record["run"]].request
            assert request is not None, f"I12: {entry.raw!r} of a run that nobody asked for"
            assert told == request.record.get("came"), f"I12: {entry.raw!r} of {request.raw!r}"


def _offers_of(journal: Journal, source: int) -> Iterator[tuple[Any, ...]]:
    for entries in journal.values():
        for entry in entries:
            record = entry.record
            if entry.kind == "match.offered" and record["from"][0] == source:
                yield (
                    *(record["run"], record["key"], record["g"], record.get("op", ""), record.get("rule", -1)),
                    *(record["event_id"], record["position"], record.get("hole")),
                )


def _first_difference(made: list[tuple[Any, ...]], due: list[tuple[Any, ...]]) -> str:
    more = [one for one in made if one not in due]
    less = [one for one in due if one not in made]
    return f"offered {more[:2]} and should have offered {less[:2]}"


def _subscriptions_are_told(journal: Journal, tales: Mapping[str, Tale]) -> None:
    told: dict[str, list[Listed]] = defaultdict(list)
    rules: dict[tuple[str, int], list[int]] = defaultdict(list)
    for entries in journal.values():
        for entry in entries:
            record = entry.record
            if entry.kind == "match.subscribed":
                if record.get("rule", -1) >= 0:
                    rules[record["run"], record["rule"]].append(record["g"])
                else:
                    waits = tuple(wait["op"] for wait in record.get("waits", ()))
                    told[record["run"]].append(Listed(record["key"], record["g"], waits))
    for run, tale in tales.items():
        made, due = sorted(told[run]), sorted(tale.listed)
        assert made == due, f"I12: run {run} told {made}, and should have told {due}"
        for index, _ in enumerate(tale.request.record.get("rules", ()) if tale.request else ()):
            expected = [1] if tale.live else [1, 2]
            assert rules[run, index] == expected, f"I12: rule {index} of run {run}: {rules[run, index]}"


def _earliest_is_taken(tale: Tale, copies: Mapping[str, list[Copy]]) -> None:
    for offer, op, before, waits in tale.taken:
        assert tale.request is not None
        first = next((wait for wait in waits if accepts(wait.where, _event(copies[op.key], offer))), None)
        assert first is op, f"I12: {offer.raw!r} went to {op.name}, and {first and first.name} was opened before it"
        for copy in copies[op.key]:
            if copy.position >= offer.record["position"]:
                break
            if copy.event["id"] in before or not accepts(op.where, copy.event):
                continue
            if copy.at > offer.at - LOOKBACK_MS + SLACK_MS and _after_trigger(
                tale.request, copy, op.key, copies[op.key]
            ):
                raise AssertionError(f"I12: {tale.id} {op.name} took {offer.raw!r} and passed over {copy}")


def _event(copies: list[Copy], offer: Entry) -> dict[str, Any]:
    return next(copy.event for copy in copies if copy.position == offer.record["position"])


def _after_trigger(request: Entry, copy: Copy, key: str, copies: list[Copy]) -> bool:
    record = request.record
    if copy.event["id"] == record.get("event_id"):
        return False
    told = _told_by_topic(record.get("came"), copy.topic)
    if told is not None:
        return told
    own = record.get("copies", {}).get(key)
    if own is None:
        return copy.moment >= int(record.get("since", request.ms))
    return any(one.source == (record.get("source", -1), own) and one.position < copy.position for one in copies)
