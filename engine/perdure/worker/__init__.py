"""The worker runs user code: identity, delivery, steps, retries, eviction."""

from perdure.worker.execution import Execution
from perdure.worker.lineage import current_branch
from perdure.worker.worker import Worker


def current() -> Execution | None:
    """The run that the calling task belongs to; None outside runs and inside step bodies."""
    branch = current_branch()
    return None if branch is None else branch.execution


__all__ = ["Execution", "Worker", "current"]
