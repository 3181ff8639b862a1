"""What a planted bug is: a rule of the engine left out, for tests alone. Each was one's first idea of how to do it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from perdure.flow import FOLDS
from perdure.flow.view import View

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]
Fold = Callable[[View, Any, int], None]


class Bug(NamedTuple):
    """`rule`: what the engine does right, in the words of DESIGN.md."""

    name: str
    rule: str
    plant: Plant


def bug(rule: str) -> Callable[[Plant], Bug]:
    """Names a bug after the function that plants it."""
    return lambda plant: Bug(plant.__name__, rule, plant)


def refold(patch: Patch, kind: type[Any], wrong: Callable[[Fold, View, Any, int], None]) -> None:
    """`wrong` folds records of `kind`; it is given the right fold."""
    right = FOLDS[kind]
    patch.setitem(FOLDS, kind, lambda view, record, at: wrong(right, view, record, at))


@contextmanager
def planted(one: Bug) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        one.plant(patch)
        yield
