"""What is handed to a run: an op's outcome, with its place and time in the log."""

from perdure.flow.effects import Deliver as Delivered


class Evicted(BaseException):
    """The run leaves memory: its user code unwinds, and is replayed when there is something for it."""


class Diverged(BaseException):
    """The run asked for something else than its log holds: it is parked."""


class Go:
    """A waiting op may go on itself: everything recorded has been handed out, or its attempt is in the log."""


GO = Go()
AGAIN = Go()
"""To a step that was announced: we were not the owner any more when that was read, so it is to be announced again."""

__all__ = ["AGAIN", "GO", "Delivered", "Diverged", "Evicted", "Go"]
