"""What a gateway answers from: it listens before that is there."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar, cast

from perdure.cli.history.bulk import bulk_jobs
from perdure.cli.history.places import PostgresPlace, place_of
from perdure.cli.history.recording import looked_at
from perdure.errors import OutsideRun
from perdure.sdk.engine import Engine
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.hindsight.jobs import Jobs

T = TypeVar("T")


class Late(Generic[T]):
    """`given` stands for `found`, for as long as there is one; `OutsideRun` before and after."""

    def __init__(self) -> None:
        self.found: T | None = None
        self.given = cast("T", _Given(self))


class _Given:
    def __init__(self, late: Late[Any]) -> None:
        self._late = late

    def __getattr__(self, name: str) -> Any:
        if self._late.found is None:
            raise OutsideRun("this gateway still opens, or comes to its end: ask again")
        return getattr(self._late.found, name)


class Looking:
    """`history`: the URL of that which the app's workers write; without one it lies in the data folder of `log`."""

    def __init__(self, log: str, history: str, retention: str | None) -> None:
        self._log = log
        self._history = history
        self._retention = retention
        self.hindsight = Late[Hindsight]()
        self.bulk = Late[Jobs]()

    @asynccontextmanager
    async def beside(self, engine: Engine) -> AsyncGenerator[None]:
        """Within it they are there."""
        place = place_of(self._history, self._log, lambda: engine.apps[0].name)
        shelf = place.shelf() if isinstance(place, PostgresPlace) else None
        async with (
            looked_at(engine, place, self._retention) as hindsight,
            bulk_jobs(engine, self._log, hindsight, shelf) as bulk,
        ):
            self.hindsight.found, self.bulk.found = hindsight, bulk
            try:
                yield
            finally:
                self.hindsight.found = self.bulk.found = None
