"""Pausing: runs of a paused function are requested as ever, and wait to be started until it goes on.

    function.pause_requested ─► partition 0 takes each command once ─► function.paused to all, in order
    paused: who would start stands in `View.paused`;   going on: these start, in the order in which they came there

Runs that have started go on. Partition 0 gives the order, so that all partitions end with what was asked for last.
"""

from perdure.flow.ending import end, leave
from perdure.flow.run import start
from perdure.flow.states import COMMANDS_KEPT
from perdure.flow.view import View
from perdure_schemas.records import FunctionPaused, PauseRequested, V


def pause_requested(view: View, record: PauseRequested, at: int) -> None:
    """Copies of a command change nothing, also where another one came between."""
    meta = view.meta
    if record.command in meta.pauses:
        return
    meta.pauses = (*meta.pauses, record.command)[-COMMANDS_KEPT:]
    for partition in range(view.partitions):
        view.send(partition, FunctionPaused(record.function, record.paused, v=V))


def function_paused(view: View, record: FunctionPaused, at: int) -> None:
    """For functions that no code has, too: it may come with the next deploy."""
    if record.paused:
        view.meta.paused.setdefault(record.function, at)
    elif view.meta.paused.pop(record.function, None) is not None:
        _go_on(view, record.function, at)


def _go_on(view: View, function: str, at: int) -> None:
    waiting = [(state.offset, run, state.due) for run, state in view.paused.items() if state.function == function]
    for _, run_id, due in sorted(waiting):
        run = view.live(run_id)
        assert run is not None, "I14: a run that has ended still waits for its function"
        leave(view, run)
        if run.discard_after_ms is not None and at > due + run.discard_after_ms:
            end(view, run, "discarded", at)
        else:
            start(view, run, at)
