"""What partitions send each other, in a past that is folded with other definitions.

A record that a fold sends now as it did then arrives where it stands in the log. What it sends now alone arrives at
once. As in the engine, what one partition sends to another arrives in the order of sending.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from msgspec import Struct

from perdure.flow import decode
from perdure_schemas.event import EventBody
from perdure_schemas.records import AnyRecord

Meaning = tuple[object, ...]
Sends = Iterable[tuple[int, bytes]]
_TELLING = ("number", "function", "paused", "run", "op", "of", "key", "g", "rule", "event_id", "new_run", "watcher")


class Letter(Struct):
    """One record on its way. `place`: by what it is found in the log, None for what does not stand there."""

    record: AnyRecord
    raw: bytes
    place: Meaning | None = None


def meaning_of(record: AnyRecord) -> Meaning:
    """By what a record that is sent now is known as one that was sent then: whom it concerns, and for what."""
    event = getattr(record, "event", None)
    about = event.id if isinstance(event, EventBody) else ""
    return type(record), about, *(getattr(record, name, None) for name in _TELLING)


class Mail:
    """All that is on its way, by source and destination.

    `loose`: clocks alone tell what came first, so that a record may be found in the log before it is sent here.
    """

    def __init__(self, *, loose: bool = False) -> None:
        self._loose = loose
        self._ways: dict[tuple[int, int], deque[Letter]] = {}
        self._passed: dict[tuple[int, int], set[Meaning]] = {}

    def post(self, source: int, sends: Sends, then: Sends = ()) -> list[int]:
        """Send; `then`: what the same record has led to in the past. Destinations that have something to take."""
        places = {(to, meaning_of(decode(raw))) for to, raw in then}
        ready: list[int] = []
        for to, raw in sends:
            record = decode(raw)
            meaning = meaning_of(record)
            passed = self._passed.get((source, to))
            if (to, meaning) not in places:
                place = None
            elif passed and meaning in passed:
                passed.remove(meaning)
                place = None
            else:
                place = meaning
            self._ways.setdefault((source, to), deque()).append(Letter(record, raw, place))
            ready.append(to)
        return ready

    def due(self, source: int, to: int) -> Iterator[Letter]:
        """What arrives by itself: all up to the first that stands further on in the log."""
        way = self._ways.get((source, to))
        while way and way[0].place is None:
            yield way.popleft()

    def up_to(self, source: int, to: int, meaning: Meaning) -> Iterator[Letter]:
        """The log has come to such a record: what arrives with it, its own counterpart last, if there is one."""
        way = self._ways.get((source, to), deque[Letter]())
        if not any(letter.place == meaning for letter in way):
            if self._loose:
                self._passed.setdefault((source, to), set()).add(meaning)
            return
        while True:
            letter = way.popleft()
            yield letter
            if letter.place == meaning:
                break
