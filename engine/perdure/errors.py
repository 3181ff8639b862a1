"""All failures share `PerdureError`; signals that cross user code are `BaseException`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

Duration = str | timedelta


class PerdureError(Exception):
    """Base of every error that Perdure raises."""


class DefinitionError(PerdureError):
    """An app, function, step or option that cannot be right. Raised where it is defined."""


class OutsideRun(PerdureError):
    """Something that only a run can do was called elsewhere, or no engine is open for the app."""


class NonDeterminism(PerdureError):
    """A run asked for something else than its log holds. Such a run is parked, never led another way."""


class PayloadError(PerdureError):
    """Data that cannot be written as JSON, or would come back different."""


class PayloadTooLarge(PayloadError):
    """More bytes than an event, a request or a record may have."""


class PayloadUnavailable(PerdureError):
    """What lies outside the log cannot be read at present, or is not what was written."""


class UnknownRun(PerdureError):
    """No run of this id is known: it never was, or ended longer ago than the window."""


class PastGone(PerdureError):
    """What was asked for is not in the log: its owner has trimmed it, or there was nothing of it yet."""


class NotParked(PerdureError):
    """Only a parked run can be told to go on: this one does already, or has ended."""


class UnknownOp(PerdureError):
    """A run's history has no such step, sleep, wait or call, or has several."""


class UnknownEvent(PerdureError):
    """No event of this id is known: it never came, or longer ago than the window."""


class UnknownJob(PerdureError):
    """No bulk job of this id is kept."""


class UnknownFunction(PerdureError):
    """No function of this id is in the app."""


class LogError(PerdureError):
    """The log refused: the message says why and what to do."""


class LogFull(LogError):
    """The disk is full: writes are refused, reads are served, and work resumes by itself."""


class LogCorrupt(LogError):
    """A stored byte is not what was written. Nothing is skipped: the partition halts."""


class LogInUse(LogError):
    """Another process has the data directory open."""


class LogMismatch(LogError):
    """The data directory was made with another partition count or by a newer version."""


class Fenced(LogError):
    """Another process writes this partition's snapshots now: what was refused is not there, and never will be."""


class NotOwned(LogError):
    """Another pod owns the partition, or it is changing hands: what its runs do is known there."""


class EngineClosed(PerdureError):
    """The engine closed while a run was awaited. The run goes on where its log is opened next: ask again there."""

    @classmethod
    def awaiting(cls, run: str) -> "EngineClosed":
        return cls(f"the engine closed while run {run!r} was awaited: the run goes on once its log is open again")


class KeepsNothing(PerdureError):
    """Asked of a process that owns no partitions, and never will: a gateway, or a member of pools alone."""


class PartitionHalted(LogError):
    """A partition met what it must not skip (an unknown kind or version) and stopped."""


class KeyRefused(PerdureError):
    """The engine takes requests with an API key alone, and got none, or one that it does not know."""


class ScopeMissing(KeyRefused):
    """The API key is known, and may not do this."""


class RunCancelled(BaseException):
    """Raised by the ops of a cancelled run."""


class NonRetriable(PerdureError):
    """Not retried. Subclasses cross the log as themselves: they are built again by `cls(*args)`."""


class RetryAfter(PerdureError):
    """Raised in a step: try again no earlier than after `delay`.

    `delay` is a duration (`"30s"`, a timedelta) or the moment itself (an aware datetime).
    """

    def __init__(self, delay: Duration | datetime, message: str = "") -> None:
        super().__init__(message or f"retry after {delay}")
        self.delay = delay


class Failed(PerdureError):
    """A step's or run's failure, as the log keeps it."""

    def __init__(
        self,
        error_type: str,
        message: str,
        traceback: str = "",
        attempts: int = 1,
        *,
        bases: Sequence[str] = (),
    ) -> None:
        super().__init__(f"{error_type}: {message}" if message else error_type)
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.attempts = attempts
        self.bases: tuple[str, ...] = tuple(bases)

    def caused_by(self, cls: type[BaseException], /) -> bool:
        """Whether the original exception was a `cls` (by qualified name, so nothing is imported)."""
        name = qualified_name(cls)
        return name == self.error_type or name in self.bases


class StepError(Failed):
    """A step that failed for good: its attempts are used up, or it must not be retried."""

    step: str = ""


class RunFailed(Failed):
    """An awaited run that failed or was cancelled."""

    run_id: str = ""


def qualified_name(cls: type[object]) -> str:
    """`shop.orders.CardDeclined`; builtins by their bare name."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
