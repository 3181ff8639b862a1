"""Why a run does not go on now, in words. Pure."""

from collections.abc import Iterator, Sequence

from perdure.sdk.port import OpDetail, RunDetail, Waiting

_OVER = ("completed", "failed", "cancelled", "discarded")


def why_waiting(detail: RunDetail, *, held: bool = False) -> tuple[Waiting, ...]:
    """All that it waits for, in the order of its ops. Nothing for a run that is over, or whose code runs."""
    run = detail.run
    if run.status in _OVER:
        return ()
    if run.status == "parked":
        return (Waiting("it is parked: its code asked for something else than its log holds; unpark or cancel it"),)
    if held:
        return (Waiting("this process has not its function, or only older code: see `perdure functions`"),)
    if run.due is not None:
        again = "it failed, and is tried again as a whole" if run.started_at is not None else "its start is delayed"
        return (Waiting(again, until=run.due),)
    if run.status == "queued":
        return (Waiting("it has not begun yet"),)
    return tuple(_ops(detail.ops))


def _ops(ops: Sequence[OpDetail]) -> Iterator[Waiting]:
    for op in ops:
        if op.status == "open" and not op.running:
            yield Waiting(_why(op), op.op, op.due)


def _why(op: OpDetail) -> str:
    match op.type:
        case "sleep":
            return "it sleeps"
        case "wait":
            return f"it waits for an event: {op.about}"
        case "call":
            return f"it waits for the run that it called: {op.about}"
        case "watch":
            return f"it waits for another run: {op.about}"
        case "step" if op.due is not None and op.attempts:
            times = "once" if len(op.attempts) == 1 else f"{len(op.attempts)} times"
            return f"its step {op.name!r} failed {times}, and is tried again"
        case "step" if op.queue and op.member and (not op.moments or op.moments[-1].kind == "claimed"):
            return f"{op.member} of queue {op.queue!r} has its step {op.name!r}"
        case "step" if op.queue:
            return f"its step {op.name!r} is in queue {op.queue!r}, and nobody has it"
        case _:
            return f"its {op.type} {op.name!r} has no outcome yet"
