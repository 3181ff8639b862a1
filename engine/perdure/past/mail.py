"""What partitions send each other, in a past that is folded with other definitions.

A record that a fold sends now as it did then arrives where it stands in the log. What it sends now alone arrives at
once. As in the engine, what one partition sends to another arrives in the order of sending.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from msgspec import Struct

from perdure.flow import decode
from perdure_schemas.event import EventBody
from perdure_schemas.records import AnyRecord

Meaning = tuple[object, ...]
Sends = Iterable[tuple[int, bytes]]
"""(destination, record)."""
Places = set[tuple[int, Meaning]]
Way = tuple[int, int]
"""(source, destination)."""
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

    `trimmed`: of the beginning of the log parts are gone, and clocks alone tell what came first. So what was sent may
    have arrived where nothing is left of it, or be found in the log before it is sent.
    """

    def __init__(self, *, trimmed: bool = False) -> None:
        self._trimmed = trimmed
        self._ways: dict[Way, deque[Letter]] = defaultdict(deque)
        self._then: dict[Way, deque[Meaning]] = defaultdict(deque)
        """Of a trimmed log: what was sent in the past, and is further on in the log."""
        self._found: dict[Way, set[Meaning]] = defaultdict(set)
        """Of a trimmed log: what was found in it before it was sent."""

    def sent_then(self, source: int, sends: Sends) -> Places:
        """A record has led to this in the past: what of it is to be found further on in the log."""
        places: Places = set()
        for to, raw in sends:
            way, meaning = (source, to), meaning_of(decode(raw))
            if meaning in self._found[way]:
                self._found[way].remove(meaning)
                continue
            places.add((to, meaning))
            if self._trimmed:
                self._then[way].append(meaning)
        return places

    def send(self, source: int, sends: Sends, places: Places) -> None:
        """The same record leads to this now."""
        for to, raw in sends:
            record = decode(raw)
            meaning = meaning_of(record)
            self._ways[source, to].append(Letter(record, raw, meaning if (to, meaning) in places else None))

    def due(self, source: int, to: int) -> Iterator[Letter]:
        """What arrives by itself: all up to the first that stands further on in the log."""
        way = self._ways[source, to]
        while way and way[0].place is None:
            yield way.popleft()

    def up_to(self, source: int, to: int, meaning: Meaning) -> Iterator[Letter]:
        """The log has come to such a record: what arrives with it, its own counterpart last, if there is one."""
        if self._trimmed:
            self._leave_out_before((source, to), meaning)
        way = self._ways[source, to]
        arrives = any(letter.place == meaning for letter in way)
        while arrives:
            letter = way.popleft()
            arrives = letter.place != meaning
            yield letter

    def _leave_out_before(self, way: Way, meaning: Meaning) -> None:
        """What was sent before this one arrived before it: where nothing is left of that."""
        then = self._then[way]
        if meaning not in then:
            self._found[way].add(meaning)
            return
        gone: set[Meaning] = set()
        while (before := then.popleft()) != meaning:
            gone.add(before)
        if gone:
            self._ways[way] = deque(letter for letter in self._ways[way] if letter.place not in gone)

    def at_last(self) -> Iterator[tuple[int, Letter]]:
        """The log ends: what arrives nonetheless, by destination. What was under way then stays so."""
        while waiting := [way for way, letters in self._ways.items() if letters]:
            for way in waiting:
                letters, self._ways[way] = self._ways[way], deque()
                yield from ((way[1], letter) for letter in letters if letter.place is None)
