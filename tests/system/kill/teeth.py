"""Whether the checks would notice: the same story with one thing wrong must fail, by the number of its invariant."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from tests.evidence.entries import Entry
from tests.system.kill.checks import Story, check_all
from tests.system.kill.reader import Line

Doctor = Callable[[Story], None]


def each_lie_is_noticed(story: Story, states: Mapping[str, tuple[str, str]]) -> int:
    """How many lies were told."""
    for invariant, lie in LIES:
        told = Story({p: list(entries) for p, entries in story.journal.items()}, list(story.lines), replace(story.sent))
        lie(told)
        with pytest.raises(AssertionError, match=invariant):
            check_all(told, states)
    return len(LIES)


def _last(story: Story, kind: str) -> Entry:
    return max(_all(story, kind), key=lambda entry: (entry.at, entry.offset))


def _all(story: Story, kind: str) -> Iterator[Entry]:
    return (entry for entries in story.journal.values() for entry in entries if entry.kind == kind)


def _replace(story: Story, entry: Entry, **changes: object) -> None:
    story.journal[entry.partition][entry.offset] = entry._replace(record={**entry.record, **changes})


def _add(story: Story, entry: Entry, **changes: object) -> None:
    """A record at the end of the entry's partition, like it but for the changes."""
    entries = story.journal[entry.partition]
    record = {name: value for name, value in {**entry.record, **changes}.items() if name != "from"}
    end = entries[-1]
    entries.append(Entry(entry.partition, len(entries), end.ms, end.at, json.dumps(record).encode(), record))


def _lost_event(story: Story) -> None:
    gone = next(iter(story.sent.events))
    for entry in _all(story, "event.received"):
        if entry.record["event"]["id"] == gone:
            _replace(story, entry, event={**entry.record["event"], "id": "x"})


def _gap(story: Story) -> None:
    gone = _last(story, "run.requested")
    _replace(story, gone, **{"from": [gone.partition, 1 << 30]})


def _changed_copy(story: Story) -> None:
    entry = next(entry for entry in _all(story, "run.requested"))
    entries = story.journal[entry.partition]
    entries.append(entry._replace(offset=len(entries), raw=entry.raw + b" "))


def _second_result(story: Story) -> None:
    _add(story, _last(story, "step.completed"))


def _second_end(story: Story) -> None:
    _add(story, _last(story, "run.finished"))


def _late_start(story: Story) -> None:
    done = _last(story, "step.completed")
    key, pid = f"{done.record['run']}/{done.record['op']}", story.lines[-1].pid
    story.lines.append(Line("started", done.ms + 1, pid, 1, "task", key))


def _start_after_cancel(story: Story) -> None:
    run, (at, pid) = next(iter(story.sent.cancelled.items()))
    story.lines.append(Line("started", at + 1, pid, 1, "task", f"{run}/0/insert#9999"))


def _early_fire(story: Story) -> None:
    fire = _last(story, "timer.fired")
    entries = story.journal[fire.partition]
    setter = entries[fire.record["setter"]]
    entries[fire.offset] = fire._replace(at=setter.at)


def _twice_in_one_process(story: Story) -> None:
    story.lines.append(next(line for line in story.lines if line.word == "started"))


def _early_retry(story: Story) -> None:
    at = next(at for at, line in enumerate(story.lines) if line.word == "started" and line.attempt > 1)
    story.lines[at] = story.lines[at]._replace(ms=story.lines[at].ms - 3_600_000)


def _second_run(story: Story) -> None:
    _add(story, _last(story, "run.requested"), run="0" * 36)


LIES: list[tuple[str, Doctor]] = [
    ("I1", _lost_event),
    ("I3", _gap),
    ("I3", _changed_copy),
    ("I4", _second_result),
    ("I5", _second_end),
    ("I6", _late_start),
    ("I6", _start_after_cancel),
    ("I9", _early_fire),
    ("I9", _twice_in_one_process),
    ("I9", _early_retry),
    ("I10", _second_run),
]
