"""What runs log, on the side topic `logs`: best effort, bounded, never felt by user code.

    ctx.logger, current_step().logger ──► RunLogger ─┐                 ┌─► record "run.logged", side topic `logs`
    any other logger, in a run or step ──► _Handler ─┴─► Lines.take ───┘   (from a thread: handed to the loop first)

Lines of code outside steps come once: it runs again on every replay, and is not heard then. Which run a line belongs
to is told by the context it is logged in, which threads of `def` steps and tasks of a run share. Handlers and levels of
the user's own stay as they are: what is below the level set for a RunLogger's name goes to the topic and no further.
"""

import asyncio
import logging
from contextlib import suppress
from contextvars import Context
from threading import Lock, get_ident, local
from typing import TYPE_CHECKING
from weakref import WeakSet

import msgspec

from perdure.flow.routing import partition_of_run
from perdure.log.protocol import Log
from perdure.worker.errors import user_traceback
from perdure.worker.lineage import InStep, here, in_step
from perdure_schemas.records import LogLevel, RunLogged, V

if TYPE_CHECKING:
    from perdure.worker.execution import Execution

LINES_A_SECOND = 100
"""Of one run. What comes beyond is counted, and one line says how many were left out."""
MESSAGE_LIMIT_CHARS = 8_000
NAME_LIMIT_CHARS = 200
LEVELS: dict[LogLevel, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
OFF = 1_000
"""A level that no line has."""
_OURS = "perdure."
_OF_RUNS = ("perdure.run", "perdure.step")
_TAKEN = "perdure_logger"
"""Of a record: the RunLogger that has given it to the topic."""
_SECOND = 1.0
_ENCODE = msgspec.json.Encoder().encode


class Lines:
    """The lines that runs of one log leave. `take` may be called in any thread."""

    def __init__(self, log: Log, least: int = logging.INFO) -> None:
        self.least = least
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._lock = Lock()
        self._counts: dict[str, int] = {}
        """Lines of each run in this second."""
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        _HANDLER.used(self)

    def close(self) -> None:
        """Before the log is closed. What comes later is dropped."""
        if self._open:
            _HANDLER.left(self)
            self._turn()
            self._open = False

    def take(self, record: logging.LogRecord, run: str, step: InStep | None) -> None:
        """A line of `run`, of the body of `step` if there is one."""
        if record.levelno < self.least or not self._open or not self._counted(run):
            return
        op, attempt = ("", 0) if step is None else (step.op, step.attempt)
        message, name = _message(record), _plain(record.name, NAME_LIMIT_CHARS)
        line = RunLogged(V, run, 0, _level(record.levelno), name, message, op, attempt, _error(record))
        if get_ident() == self._thread:
            self._put(line)
        else:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._put, line, context=Context())

    def _counted(self, run: str) -> bool:
        with self._lock:
            count = self._counts[run] = self._counts.get(run, 0) + 1
        return count <= LINES_A_SECOND

    def _put(self, line: RunLogged) -> None:
        if not self._open:
            return
        if self._timer is None:
            self._timer = self._loop.call_later(_SECOND, self._turn, context=Context())
        partition = partition_of_run(line.run, self._log.partitions)
        self._log.side("logs", partition, _ENCODE(msgspec.structs.replace(line, at=self._log.now_ms())))

    def _turn(self) -> None:
        """The second is over."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            counts, self._counts = self._counts, {}
        for run, count in counts.items():
            if count > LINES_A_SECOND:
                left_out = (
                    f"{count - LINES_A_SECOND:,} lines were left out: {LINES_A_SECOND} a second are kept of a run"
                )
                self._put(RunLogged(V, run, 0, "warning", "perdure", left_out))
        self._timer = None


def run_and_step(record: logging.LogRecord) -> tuple[str, str, int]:
    """Whose line it is: run, op and attempt, as far as there are. For handlers that format in the line's own thread.

    Our own loggers name by `extra` what they speak of.
    """
    logger, step, branch = getattr(record, _TAKEN, None), in_step.get(), here.get()
    if isinstance(logger, RunLogger):
        return logger.source()
    if step is not None:
        return step.execution.run_id, step.op, step.attempt
    named, op = getattr(record, "run", ""), getattr(record, "step", "")
    if isinstance(named, str) and isinstance(op, str) and named:
        return named, op, 0
    return ("" if branch is None else branch.execution.run_id), "", 0


class RunLogger(logging.Logger):
    """What `ctx.logger` and `current_step().logger` are: a line goes to the topic, and on as from any logger.

    Not one of the logging module's own registry: a step's name may be made up at run time, and what is registered there
    stays for good. `parent` is the registered one that stands for it.
    """

    def __init__(self, name: str, parent: logging.Logger, execution: "Execution", step: InStep | None) -> None:
        super().__init__(name)
        self.parent = self._named = parent
        self._execution = execution
        self._step = step

    def getEffectiveLevel(self) -> int:
        """Its own, else the lower one of what the topic takes and what the user's own handlers are to see."""
        lines = self._execution.worker.lines
        least = OFF if lines is None else lines.least
        return self.level or min(least, self._named.getEffectiveLevel())

    def isEnabledFor(self, level: int) -> bool:
        """Without the cache of registered loggers, which nobody would clear here."""
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()

    def source(self) -> tuple[str, str, int]:
        """Run, op and attempt of a line that is logged here now."""
        step = in_step.get() or self._step
        return (self._execution.run_id, "", 0) if step is None else (step.execution.run_id, step.op, step.attempt)

    def callHandlers(self, record: logging.LogRecord) -> None:
        """The topic first; the user's own handlers if the levels of its name let it through."""
        step = in_step.get() or self._step
        if step is None and self._execution.unheard():
            return
        execution = self._execution if step is None else step.execution
        lines = execution.worker.lines
        if lines is not None:
            _safely(lines, record, execution.run_id, step)
        record.__dict__[_TAKEN] = self
        if (self.level or self._named.isEnabledFor(record.levelno)) and self._named.filter(record):
            super().callHandlers(record)


def logger_of_run(execution: "Execution") -> logging.Logger:
    """`perdure.run.<function>`: there are as many as functions."""
    name = f"perdure.run.{execution.function.id}"
    return RunLogger(name, logging.getLogger(name), execution, None)


def logger_of_step(step: InStep) -> logging.Logger:
    """`perdure.step.<name>`."""
    name = f"perdure.step.{step.name}"
    return RunLogger(name, _registered(name, "perdure.step"), step.execution, step)


class _Handler(logging.Handler):
    """Of the root logger, as long as an engine is open in this process. It knows a run by its context."""

    def __init__(self) -> None:
        super().__init__()
        self._users: WeakSet[Lines] = WeakSet()
        """Weak: an engine that a test kills says no word."""

    def used(self, by: Lines) -> None:
        """An engine opened."""
        self._users.add(by)
        logging.getLogger().addHandler(self)

    def left(self, by: Lines) -> None:
        """An engine closed; the last one takes the handler away."""
        self._users.discard(by)
        if not self._users:
            logging.getLogger().removeHandler(self)

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the handler's lock: threads need not wait for each other."""
        if not hasattr(record, _TAKEN) and not (record.name + ".").startswith(_OURS):
            self.emit(record)
        self._last_resort(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Take the line, if a run's code logged it."""
        step, branch = in_step.get(), here.get()
        execution = step.execution if step is not None else None if branch is None else branch.execution
        if execution is None or (step is None and execution.unheard()):
            return
        lines = execution.worker.lines
        if lines is not None:
            _safely(lines, record, execution.run_id, step)

    def _last_resort(self, record: logging.LogRecord) -> None:
        """The logging module shows warnings where nobody has set up any handler, and takes this one for such."""
        last = logging.lastResort
        if last is None or record.levelno < last.level:
            return
        logger: logging.Logger | None = getattr(record, _TAKEN, None) or _registered(record.name, "")
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return
            logger = logger.parent
        last.handle(record)


_HANDLER = _Handler()
_busy = local()


def _safely(lines: Lines, record: logging.LogRecord, run: str, step: InStep | None) -> None:
    """Whatever a message's own code does: it runs when its text is made, and may log, too."""
    if getattr(_busy, "now", False):
        return
    _busy.now = True
    try:
        lines.take(record, run, step)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        pass
    finally:
        _busy.now = False


def _registered(name: str, fallback: str) -> logging.Logger:
    """The logger of that name if somebody made it, else the one that stands for it."""
    known = logging.Logger.manager.loggerDict.get(name)
    return known if isinstance(known, logging.Logger) else logging.getLogger(fallback)


def _level(number: int) -> LogLevel:
    found: LogLevel = "debug"
    for name, least in LEVELS.items():
        if number >= least:
            found = name
    return found


def _message(record: logging.LogRecord) -> str:
    try:
        return _plain(record.getMessage(), MESSAGE_LIMIT_CHARS)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        template = record.msg if type(record.msg) is str else "its text cannot be made"
        return _plain(f"(not formatted) {template}", MESSAGE_LIMIT_CHARS)


def _error(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    try:
        return user_traceback(record.exc_info[1])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "(its traceback cannot be shown)"


def _plain(text: str, limit: int) -> str:
    """As much of it as is kept. Lone surrogates, as in names of files, are no UTF-8."""
    kept = text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"
    return kept.encode("utf-8", "backslashreplace").decode()
