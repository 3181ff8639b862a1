"""The worker runs user code: identity, delivery, steps, retries, eviction."""

from perdure.worker.execution import Execution
from perdure.worker.lineage import here, in_step
from perdure.worker.worker import Worker

_branch, _in_step = here.get, in_step.get


def current() -> Execution | None:
    """The run that the calling task belongs to; None outside runs and inside step bodies."""
    branch = _branch()
    return None if branch is None or _in_step() is not None else branch.execution


__all__ = ["Execution", "Worker", "current"]
