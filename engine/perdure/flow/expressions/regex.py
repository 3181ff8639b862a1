"""Regular expressions in time linear in the text, as CEL promises: no event can hang a partition.

Python's `re` backtracks, and `(a+)+$` against thirty letters takes minutes; a fold that met such an event would meet
it again after every restart. Here a pattern becomes a non-deterministic automaton that is walked one character at a
time over the set of its states (Thompson), and the sets met so far are kept as a table.

The language is that of RE2 as far as people use it: literals, `.`, classes, `\\d \\w \\s \\b` (ASCII) and their
negations, anchors, groups, `|`, `* + ? {m,n}` (lazy forms too: whether a text matches does not depend on them), and
`(?i)`, `(?s)`, `(?m)` at the start. No back references and no look-around, which cannot be had in linear time.
"""

from functools import lru_cache

from perdure.flow.expressions.regex_syntax import Assertion, Chars, Either, Repeat, Syntax, Together, Tree

MAX_TEXT = 10_000
"""Characters of the longest text that `matches()` looks at; a longer one gives an error, so no match."""

MAX_PROGRAM = 1_000
"""Steps of the largest pattern: about two for each of its characters, `{m,n}` written out."""

_MAX_EDGES = 20_000
_WORD = Chars(((48, 57), (65, 90), (95, 95), (97, 122)))


class _State:
    """The instructions that the automaton stands at, the kind of character before, and where each character leads."""

    __slots__ = ("before", "edges", "points")

    def __init__(self, points: frozenset[int], before: str) -> None:
        self.points = points
        self.before = before
        self.edges: dict[str, _State] = {}


_FOUND = _State(frozenset(), "")


class Regex:
    """A compiled pattern."""

    def __init__(self, pattern: str) -> None:
        self._tests: list[Chars | None] = []
        self._jumps: list[tuple[int, ...]] = []
        self._asserts: list[str] = []
        self._pattern = pattern
        self._budget = MAX_PROGRAM
        self._emit(Syntax(pattern).tree())
        self._end = len(self._tests)
        self._start = _State(frozenset((0,)), "start")
        self._states: dict[tuple[frozenset[int], str], _State] = {}
        self._edges = 0

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in the text."""
        state = self._start
        for char in text:
            after = state.edges.get(char)
            if after is None:
                after = self._step(state, char)
            if after is _FOUND:
                return True
            state = after
        return self._end in self._closure(state, "")

    def _step(self, state: _State, char: str) -> _State:
        here = self._closure(state, char)
        if self._end in here:
            after = _FOUND
        else:
            points = {0}
            for point in here:
                test = self._tests[point]
                if test is not None and test.holds(char):
                    points.add(point + 1)
            key = frozenset(points), _kind(char)
            after = self._states.setdefault(key, _State(*key))
        self._edges += 1
        if self._edges > _MAX_EDGES:
            # Forget rather than grow: an outsider's texts choose how many there are.
            self._edges = 0
            self._states.clear()
            self._start.edges.clear()
            return after
        state.edges[char] = after
        return after

    def _closure(self, state: _State, char: str) -> set[int]:
        """All instructions that can be reached before `char` (empty: the end of the text) is read."""
        after = _kind(char)
        seen: set[int] = set()
        stack = list(state.points)
        while stack:
            point = stack.pop()
            if point in seen:
                continue
            seen.add(point)
            if point == self._end or self._tests[point] is not None:
                continue
            if _allows(self._asserts[point], state.before, after):
                stack.extend(self._jumps[point])
        return seen

    def _emit(self, tree: Tree) -> None:
        self._spend(1)
        if isinstance(tree, Chars):
            self._add(tree)
        elif isinstance(tree, Assertion):
            point = self._add(None, tree.kind)
            self._jumps[point] = (point + 1,)
        elif isinstance(tree, Together):
            for item in tree.items:
                self._emit(item)
        elif isinstance(tree, Either):
            self._emit_either(tree.branches)
        else:
            self._emit_repeat(tree)

    def _emit_either(self, branches: tuple[Tree, ...]) -> None:
        split = self._add(None)
        starts: list[int] = []
        ends: list[int] = []
        for branch in branches:
            starts.append(len(self._tests))
            self._emit(branch)
            ends.append(self._add(None))
        self._jumps[split] = tuple(starts)
        for end in ends:
            self._jumps[end] = (len(self._tests),)

    def _emit_repeat(self, repeat: Repeat) -> None:
        tree, low, high = repeat
        for _ in range(low):
            self._emit(tree)
        if high is None:
            split = self._add(None)
            self._emit(tree)
            self._jumps[self._add(None)] = (split,)
            self._jumps[split] = (split + 1, len(self._tests))
            return
        splits: list[int] = []
        for _ in range(high - low):
            splits.append(self._add(None))
            self._emit(tree)
        for split in splits:
            self._jumps[split] = (split + 1, len(self._tests))

    def _add(self, test: Chars | None, assertion: str = "") -> int:
        self._spend(1)
        self._tests.append(test)
        self._jumps.append(())
        self._asserts.append(assertion)
        return len(self._tests) - 1

    def _spend(self, steps: int) -> None:
        self._budget -= steps
        if self._budget < 0:
            raise ValueError(f"the pattern {self._pattern[:40]!r} is too large: it has more than {MAX_PROGRAM} steps")


@lru_cache(maxsize=256)
def compile_regex(pattern: str) -> Regex:
    """The compiled pattern. Raises ValueError with what is wrong and where."""
    return Regex(pattern)


def _kind(char: str) -> str:
    if char == "\n":
        return "line"
    return "end" if not char else "word" if _WORD.holds(char) else "other"


def _allows(assertion: str, before: str, after: str) -> bool:
    if assertion in ("b", "B"):
        return ((before == "word") != (after == "word")) == (assertion == "b")
    if assertion in ("A", "^"):
        return before == "start" or (assertion == "^" and before == "line")
    return assertion == "" or after == "end" or (assertion == "$" and after == "line")
