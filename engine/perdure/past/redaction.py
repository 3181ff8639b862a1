"""Values that do not leave the house: replaced in a tape, which is run again as before.

    data.email          in the data of every event, wherever it stands in a record; user.… likewise
    arguments.email     in what background functions are called with
    steps.charge.card   in the result and in the recorded arguments of a step; its name may be a pattern
    result.email        in the results of runs

- A value keeps its type, and a text the form that it is known by (address, number, time, UUID), so that it can be read
  again. Numbers become 0, and False is what becomes of a truth value.
- A text that a rule names is replaced wherever else it stands, alone or within another one: in what steps made of it,
  in the keys of waits, in errors. The same text is replaced by the same one, so that what was equal still is.
- Digests of arguments tell what they were, to who tries all that it could have been. So in a run of which anything was
  replaced there are none, which stands for any arguments: its replay does not notice others.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from perdure.errors import DefinitionError
from perdure.flow.lines import op_name
from perdure.past.tape import COMMON, Entry, Part, Tape

PLACES = ("data", "user", "arguments", "steps", "result")
SHORTEST = 4
"""A text of fewer characters is replaced where it stands alone; within another one it would be found by accident."""
_USERS = frozenset({"data", "user", "input", "args", "metadata", "inline"})
"""Fields of records that have nothing but user data below them."""
_TEXTS = frozenset({"message", "traceback", "reason", "key", "where", "id", "event_id", "command"})
"""Others whose text may have some in it."""
_BY_KEY = frozenset({"copies", "keys", "taken"})
"""Others whose keys may."""
_FORMS: Sequence[tuple[re.Pattern[str], Callable[[int, str], str]]] = (
    (re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+"), lambda n, was: f"redacted-{n}@example.invalid"),
    (re.compile(r"\d+"), lambda n, was: str(n)[-len(was) :].zfill(len(was))),
    (re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), lambda n, was: f"00000000-0000-4000-8000-{n:012d}"),
    (re.compile(r"\d{4}-\d\d-\d\d"), lambda n, was: "1970-01-01"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*"), lambda n, was: "1970-01-01T00:00:00Z"),
)
_DIGEST = re.compile(rb"x3:[0-9a-f]{16}")
"""As `perdure.worker.payloads.digest` makes them; they also stand in what parked runs say."""
_DIGEST_FIELD = re.compile(rb'"digest":"x3:[0-9a-f]{16}"')
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Rule(NamedTuple):
    """`place` is one of `PLACES`; `step` a pattern, for a step's."""

    text: str
    place: str
    step: str
    path: tuple[str, ...]


def rule_of(text: str) -> Rule:
    """Raises `DefinitionError`."""
    place, *path = text.strip().split(".")
    step = path.pop(0) if place == "steps" and path else ""
    if place not in PLACES or "" in path or (place == "steps") != bool(step):
        raise DefinitionError(
            f"{text!r} names no values: say data.email, user.name, arguments.address, result.token or steps.charge.card"
        )
    return Rule(text.strip(), place, step, tuple(path))


def redacted(tape: Tape, rules: Sequence[Rule]) -> tuple[Tape, Counter[str]]:
    """The tape without these values, and how many values each rule named.

    Raises `DefinitionError` where the log was trimmed, and its state is needed for what is gone.
    """
    states = [part.state.rows for part in tape.parts.values() if part.state is not None]
    if any(key[:2] not in (b"d/", b"#m") for rows in states for key in rows):
        raise DefinitionError(
            "the log was trimmed, and of what is gone there is the state alone, in which nothing is redacted: export "
            "runs that began later, or leave the rules out"
        )
    found = _Found(rules)
    for entry in _entries(tape):
        found.collect(_decode(entry.raw))
    changed: dict[tuple[int, int], bytes] = {}
    touched: set[str] = set()
    for entry in _entries(tape):
        record = _decode(entry.raw)
        if found.replace(record):
            changed[entry.partition, entry.offset] = _encode(record)
            touched.add(entry.entity)
    parts = {number: _part(part, changed, touched - {""}) for number, part in tape.parts.items()}
    return tape._replace(parts=parts, redacted=tuple(rule.text for rule in rules)), found.counts


def _entries(tape: Tape) -> Iterator[Entry]:
    """Those that have user data."""
    every = chain.from_iterable(part.entries for part in tape.parts.values())
    return (one for one in every if one.kind not in COMMON)


def _part(part: Part, changed: Mapping[tuple[int, int], bytes], touched: set[str]) -> Part:
    return part._replace(entries=[_entry(one, changed, touched) for one in part.entries])


def _entry(entry: Entry, changed: Mapping[tuple[int, int], bytes], touched: set[str]) -> Entry:
    raw = changed.get((entry.partition, entry.offset), entry.raw)
    if entry.entity in touched:
        raw = _DIGEST.sub(b"redacted", _DIGEST_FIELD.sub(b'"digest":""', raw))
    return entry if raw is entry.raw else entry._replace(raw=raw)


class _Found:
    """What the rules name, and what is put in its place."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._names: dict[str, str] = {}
        self._within: re.Pattern[str] | None = None
        self.counts: Counter[str] = Counter({rule.text: 0 for rule in rules})

    def collect(self, record: dict[str, Any]) -> None:
        """To be asked of all records, before the first is changed."""
        for rule in self._rules:
            for holder, key in _places(record, rule):
                self.counts[rule.text] += 1
                value = holder[key]
                if isinstance(value, str) and value and value not in self._names:
                    self._names[value] = _instead(len(self._names) + 1, value)
                    self._within = None

    def replace(self, record: dict[str, Any]) -> bool:
        """In place. Whether anything was."""
        before = _encode(record)
        for rule in self._rules:
            for holder, key in _places(record, rule):
                value = holder[key]
                if isinstance(value, bool | int | float):
                    holder[key] = type(value)(0)
        if self._names:
            self._walk(record)
        return _encode(record) != before

    def _walk(self, node: Any, users: bool = False) -> None:
        for key, value in list(_items(node)):
            below = users or (key in _USERS and not _is_event(value))
            if _is(value, dict, list):
                self._walk(value, below)
                if below or key in _BY_KEY:
                    _rename(_dict(value), self._told)
            elif isinstance(value, str) and (below or key in _TEXTS):
                node[key] = self._told(value) if below else self._replaced_within(value)

    def _told(self, text: str) -> str:
        return self._names.get(text) or self._replaced_within(text)

    def _replaced_within(self, text: str) -> str:
        if self._within is None:
            long = sorted((name for name in self._names if len(name) >= SHORTEST), key=len, reverse=True)
            self._within = re.compile("|".join(map(re.escape, long)) or r"(?!)")
        return self._within.sub(lambda match: self._names[match[0]], text)


def _is_event(value: Any) -> bool:
    """Whether it is a whole event, as a run has its trigger: not all of that is user data."""
    return {"id", "name", "data"} <= _dict(value).keys()


def _is(value: object, *kinds: type) -> bool:
    """Types of JSON's trees are not known: nothing is gained by narrowing them."""
    return isinstance(value, kinds)


def _dict(value: Any) -> dict[str, Any]:
    """Empty for anything else."""
    found: dict[str, Any] = value if _is(value, dict) else {}
    return found


def _list(value: Any) -> list[Any]:
    found: list[Any] = value if _is(value, list) else []
    return found


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    yield from _dict(node).items()
    yield from enumerate(_list(node))


def _rename(node: dict[str, Any], told: Callable[[str], str]) -> None:
    renamed = {told(key): value for key, value in node.items()}
    if renamed.keys() != node.keys():
        node.clear()
        node.update(renamed)


def _instead(number: int, text: str) -> str:
    for form, made in _FORMS:
        if form.fullmatch(text):
            return made(number, text)
    return f"redacted-{number}"


_Place = tuple[Any, Any]
"""A dict or list, and the key of a value in it that is no dict or list."""


def _places(record: dict[str, Any], rule: Rule) -> Iterator[_Place]:
    # A fork has lines of another run, each in a record of its own.
    for one in (record, _dict(record.get("line"))):
        for holder, key in _roots(one, rule):
            yield from _leaves(holder, key, rule.path)


def _roots(record: dict[str, Any], rule: Rule) -> Iterator[_Place]:
    if rule.place in ("data", "user"):
        yield from ((body, rule.place) for body in _events_in(record) if rule.place in body)
    elif rule.place == "arguments":
        for holder in (record, record.get("opening")):
            yield from _given(_inline(holder, "arguments"))
    elif rule.place == "result" and record.get("kind") in ("run.finished", "run.answered"):
        yield from _payload(record, "result")
    elif rule.place == "steps":
        yield from _of_step(record, rule.step)


def _of_step(record: dict[str, Any], step: str) -> Iterator[_Place]:
    if "op" in record and fnmatchcase(op_name(str(record["op"])), step):
        if record["kind"] in ("step.completed", "step.failed"):
            yield from _payload(record, "result")
            yield from _given(record.get("input"))
        else:
            yield from _given(_inline(record.get("opening"), "arguments"))
    results = _dict(_dict(record.get("ending")).get("results"))
    for name in results:
        if fnmatchcase(name, step):
            yield from _payload(results, name)


def _events_in(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sent = _list(_dict(record.get("opening")).get("events"))
    for one in (record.get("event"), record.get("successor"), _dict(record.get("ending")).get("event"), *sent):
        body = _dict(one)
        body = body if _is_event(body) else _dict(body.get("inline"))
        if _is_event(body):
            yield body


def _payload(holder: Any, field: str) -> Iterator[_Place]:
    payload = _dict(_dict(holder).get(field))
    if "inline" in payload and not payload.get("encoded"):
        yield payload, "inline"


def _inline(holder: Any, field: str) -> Any:
    return next((one[key] for one, key in _payload(holder, field)), None)


def _given(arguments: Any) -> Iterator[_Place]:
    """Arguments as they are recorded, `[[positional…], {keyword: …}]`: a path begins in each, or at a keyword."""
    both = _list(arguments)
    if len(both) == 2:
        positional, keywords = _list(both[0]), _dict(both[1])
        yield from ((positional, index) for index in range(len(positional)))
        yield both, 1
        yield from ((keywords, key) for key in keywords)


def _leaves(holder: Any, key: Any, path: Sequence[str]) -> Iterator[_Place]:
    value = holder[key]
    if _is(value, list):
        for index in range(len(_list(value))):
            yield from _leaves(value, index, path)
    elif _is(value, dict):
        below = _dict(value)
        for name in below if not path or path[0] == "*" else [path[0]] if path[0] in below else ():
            yield from _leaves(below, name, path[1:])
    elif not path and value is not None:
        yield holder, key
