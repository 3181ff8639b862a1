"""pdb in the user's own code, at the step of a replay that it is about to ask for, or where it failed."""

import pdb  # noqa: T100 - it is what this is about
import reprlib
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from perdure.past.frames import asking_frame, is_users, stack_of
from perdure.past.replay import Stop, Unwatched
from perdure.worker.execution import Execution


class UserPdb(pdb.Pdb):
    """Sees and stops in the user's frames alone."""

    def __init__(self, on_quit: Callable[[], None]) -> None:
        super().__init__(nosigint=True)
        self._on_quit = on_quit

    def stop_in(self, frame: FrameType) -> None:
        """Talks to its user at `frame`, which is below us on the stack or waits; then lets the code go on."""
        self.reset()
        outer: FrameType | None = frame
        while outer is not None:
            # As `set_trace`, but stopping here and now, and not at the next line that anybody runs.
            outer.f_trace = self.trace_dispatch
            self.botframe: FrameType | None = outer
            outer = outer.f_back
        self.interaction(frame, None)
        if self.stoplineno != -1 or self.breaks:
            sys.settrace(self.trace_dispatch)

    def look_at(self, trace: TracebackType) -> None:
        """Talks to its user where an error was raised."""
        self.reset()
        self.interaction(None, trace)

    def stop_here(self, frame: FrameType) -> bool:
        return is_users(frame) and super().stop_here(frame)

    def dispatch_exception(self, frame: FrameType, arg: Any) -> Any:
        """How a coroutine of the user's returns is no exception to whoever awaits it."""
        return super().dispatch_exception(frame, arg) if is_users(frame) else self.trace_dispatch

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
        stack, _ = super().get_stack(f, t)
        # Of an error the stack goes on inwards from the frame that runs now.
        known = set(map(id, stack_of(f))) if t is None else {id(frame) for frame, _ in stack if is_users(frame)}
        own = [one for one in stack if id(one[0]) in known] or stack[-1:]
        return own, len(own) - 1

    def set_quit(self) -> None:
        """The run leaves, as one that is evicted: an exception of ours could be caught by its code."""
        self._on_quit()
        self.clear_all_breaks()
        self.set_continue()


class Stopper(Unwatched):
    """Stops once: before the first op that `wanted` is true of, if there is a `wanted`.

    `place`: the user's code that asked for it, and its locals.
    """

    def __init__(self, wanted: Callable[[str], bool] | None) -> None:
        self._wanted = wanted
        self.stopped_at = ""
        self.place = ""
        self.locals: dict[str, str] = {}

    def asked(self, execution: Execution, op: str, digest: str) -> None:
        """See `Onlooker`."""
        if self.stopped_at or self._wanted is None or not self._wanted(op):
            return
        self.stopped_at = op
        self.stop(execution, asking_frame(execution))

    def leave(self) -> None:
        """The replay is over."""

    def stop(self, execution: Execution, frame: FrameType | None) -> None:
        """Remembers what is to be seen there, and ends the replay."""
        if frame is not None:
            self.place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
            self.locals = {name: _short(value) for name, value in frame.f_locals.items()}
        execution.unwind(Stop())


class Debugger(Stopper):
    """Opens pdb there, or where the run fails, and lets it go on."""

    def __init__(self, wanted: Callable[[str], bool] | None, tell: Callable[[str], None]) -> None:
        super().__init__(wanted)
        self._tell = tell

    def stop(self, execution: Execution, frame: FrameType | None) -> None:
        if frame is None:
            self._tell(f"{self.stopped_at} is asked for by no code of yours")
            return
        self._tell(f"{self.stopped_at} is asked for here: n goes on to what it was answered")
        UserPdb(lambda: execution.unwind(Stop())).stop_in(frame)

    def leave(self) -> None:
        sys.settrace(None)

    def failed(self, execution: Execution, error: BaseException) -> None:
        """See `Onlooker`."""
        if not self.stopped_at and error.__traceback__ is not None:
            self.stopped_at = "its failure"
            self._tell(f"it failed here: {type(error).__name__}: {error}")
            UserPdb(lambda: None).look_at(error.__traceback__)


def _short(value: object) -> str:
    try:
        return reprlib.repr(value)
    except Exception as broken:
        return f"(its __repr__ raised {type(broken).__name__})"
