"""I14: beyond the window a partition keeps nothing of what has ended."""

from collections.abc import Iterable

from perdure.flow.view import View

LATE = "late-"
"""Events by which log time passes at the end have such ids, and are kept themselves."""
_STAYS = ("at", "#", "d/", "c/")
"""Log time, counters and owners, definitions, schedules."""


def nothing_is_left(views: Iterable[View]) -> None:
    for view in views:
        left = [key for key in view.logical() if not key.startswith(_STAYS) and LATE not in key]
        assert not left, f"I14: partition {view.partition} keeps {left[:5]} ({len(left)} in all)"
