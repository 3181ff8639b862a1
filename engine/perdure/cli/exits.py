"""Exit codes, which scripts may rely on."""

from perdure.errors import (
    DefinitionError,
    LogError,
    PastGone,
    PerdureError,
    UnknownEvent,
    UnknownFunction,
    UnknownJob,
    UnknownOp,
    UnknownRun,
)
from perdure.sdk.http_wire import EngineUnreachable

OK = 0
FAILED = 1
"""The engine refused, or the app cannot be run."""

USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
"""No engine answers at the address."""

LOG = 5
"""The data directory is in use, damaged, full, or was made otherwise: trying again changes nothing."""

KILLED = 130
"""A second Ctrl-C, which did not wait for the drain."""


def code_of(error: PerdureError) -> int:
    """What a command that ended in this error exits with."""
    if isinstance(error, UnknownRun | UnknownEvent | UnknownFunction | UnknownJob | UnknownOp | PastGone):
        return NOT_FOUND
    if isinstance(error, EngineUnreachable):
        return UNREACHABLE
    if isinstance(error, LogError):
        return LOG
    return USAGE if isinstance(error, UsageProblem) else FAILED


class UsageProblem(DefinitionError):
    """What was typed cannot be right."""
