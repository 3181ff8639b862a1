"""Runs that have work and that this process may not touch, for now."""

from collections import Counter
from collections.abc import Iterable


class Held:
    """By partition; and how many of each function, so that nobody who asks for that walks them."""

    def __init__(self) -> None:
        self._runs: dict[int, dict[str, str]] = {}
        self.functions: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self.functions)

    def __contains__(self, run: str) -> bool:
        return any(run in runs for runs in self._runs.values())

    def of(self, partition: int) -> int:
        """How many."""
        return len(self._runs.get(partition, ()))

    def add(self, partition: int, run: str, function: str) -> None:
        """Also one that is there already."""
        runs = self._runs.setdefault(partition, {})
        if run not in runs:
            runs[run] = function
            self.functions[function] += 1

    def discard(self, partition: int, run: str) -> bool:
        """Whether it was there."""
        function = self._runs.get(partition, {}).pop(run, None)
        if function is None:
            return False
        self._forget([function])
        return True

    def take(self, partition: int) -> list[str]:
        """All of a partition: they are held no more."""
        runs = self._runs.pop(partition, {})
        self._forget(runs.values())
        return sorted(runs)

    def _forget(self, functions: Iterable[str]) -> None:
        self.functions.subtract(functions)
        self.functions = +self.functions
