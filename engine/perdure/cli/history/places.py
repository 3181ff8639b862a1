"""Where an app's history lies, and for how long."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from perdure.cli.exits import UsageProblem
from perdure.cli.settings import Setting
from perdure.duration import parse_ms
from perdure.errors import DefinitionError
from perdure.history.projector import RETENTION_MS
from perdure.history.sqlite import FILE, SqliteHistory
from perdure.history.store import History

if TYPE_CHECKING:
    from perdure.history.postgres import PostgresHistory
    from perdure.history.postgres_shelf import PostgresShelf


class Place(Protocol):
    """Of one app's history."""

    @property
    def shown(self) -> str:
        """For people: without a password."""
        ...

    def store(self, *, writes: bool = True) -> History: ...

    def anew(self) -> AbstractContextManager[History]:
        """A new one to be filled, which comes into its place when that went well."""
        ...


class SqlitePlace:
    """A file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shown = str(path)

    def store(self, *, writes: bool = True) -> SqliteHistory:
        if writes:
            # A gateway's log keeps no state, and so makes no folder.
            self._path.parent.mkdir(parents=True, exist_ok=True)
        return SqliteHistory(self._path, writes=writes)

    @contextmanager
    def anew(self) -> Generator[SqliteHistory]:
        making = self._path.with_name(f"{self._path.name}.making")
        _remove(making)
        yield SqliteHistory(making)
        _remove(self._path)
        making.rename(self._path)


class PostgresPlace:
    """A schema of a database."""

    def __init__(self, url: str, schema: str) -> None:
        try:
            from perdure.history.postgres import PostgresHistory, schema_named
        except ImportError as error:
            raise UsageProblem("history on PostgreSQL needs psycopg: pip install 'perdure[postgres]'") from error
        self._history = PostgresHistory
        self._url = url
        self._schema = schema_named(schema)
        self._making = schema_named(f"{schema}.making")
        self._jobs = schema_named(f"{schema}.jobs")
        self.shown = self.store().shown

    def store(self, *, writes: bool = True) -> "PostgresHistory":
        return self._history(self._url, self._schema, writes=writes)

    def shelf(self) -> "PostgresShelf":
        """For jobs of all gateways."""
        from perdure.history.postgres_shelf import PostgresShelf

        return PostgresShelf(self._url, self._jobs)

    @contextmanager
    def anew(self) -> Generator[History]:
        made = self._history(self._url, self._making)
        made.drop()
        yield made
        self.store().replace(made)


def history_option(command: click.decorators.FC) -> click.decorators.FC:
    """Where it lies, if not in the data directory."""
    option = click.option(
        "--history",
        cls=Setting,
        default="",
        metavar="URL",
        help="postgresql://USER:PASSWORD@HOST/DATABASE, instead of the data directory.",
    )
    return option(command)


def retention_option(command: click.decorators.FC) -> click.decorators.FC:
    option = click.option(
        "--history-retention",
        cls=Setting,
        help="How long history keeps what is over: 90d, or forever.  [default: 30d]",
    )
    return option(command)


def is_remembered(log: str) -> bool:
    """A log in memory is gone with its engine: nobody looks at its history later."""
    return not log.startswith("memory://")


def place_of(history: str, log: str, app: Callable[[], str]) -> Place:
    """`history` as the option has it; `app` is asked for its name if that is needed. Raises `UsageProblem`."""
    if not is_remembered(log):
        raise UsageProblem("--log memory://: a log in memory is gone with its engine, and has no history")
    if history:
        if not history.startswith(("postgresql://", "postgres://")):
            # What it is instead is not said again: it may be a password.
            raise UsageProblem("--history: say postgresql://USER:PASSWORD@HOST/DATABASE, or leave it out")
        return PostgresPlace(history, _topic(log, app()) or app())
    topic = _topic(log, app() if log.startswith("kafka://") else "")
    return SqlitePlace(_data(log) / (f"{topic}.{FILE}" if topic else FILE))


def _topic(log: str, app: str) -> str:
    """Of a log that apps share."""
    if not log.startswith("kafka://"):
        return ""
    from perdure.log.kafka import parse

    return parse(log).topic(app)


def _data(log: str) -> Path:
    if log.startswith("kafka://"):
        from perdure.log.kafka import parse

        return Path(parse(log).data)
    return Path(log.removeprefix("embedded://").partition("?")[0])


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def retention_ms(text: str | None) -> int | None:
    """None for ever. Raises `UsageProblem`."""
    if text is None:
        return RETENTION_MS
    if text == "forever":
        return None
    try:
        return parse_ms(text, what="--history-retention", positive=True)
    except DefinitionError as error:
        raise UsageProblem(f"{error}, or forever") from None
