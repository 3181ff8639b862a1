"""What an app is, as the log knows it. Folds read only this, never the code in memory."""

from msgspec import Struct


class TriggerDefined(Struct, frozen=True, omit_defaults=True, gc=False):
    """An event name (`cart/added`, or `cart/*`) and a condition in the expression language."""

    event: str
    where: str = ""


class CancelDefined(Struct, frozen=True, omit_defaults=True, gc=False):
    """A rule by which a later event cancels a run: `path` of the event equals `equals` of the trigger."""

    event: str
    path: str = ""
    """Join path on the incoming event, e.g. `data.cart_id`; empty when nothing is compared."""
    equals: str = ""
    """Path on the trigger whose value the incoming one must equal; empty when `value` is given."""
    value: str | int | bool | None = None
    where: str = ""
    timeout_ms: int | None = None


class CronDefined(Struct, frozen=True, omit_defaults=True, gc=False):
    """A schedule. The next fire is computed outside the folds and appended as an absolute time."""

    line: str
    tz: str = "UTC"
    catchup: bool = False


class FunctionDefined(Struct, frozen=True, omit_defaults=True, gc=False):
    """One function of an app with everything that a fold must know of it."""

    id: str
    kind: str
    """`event`, `background`, `cron` or `handler`."""
    triggers: tuple[TriggerDefined, ...] = ()
    cancel_on: tuple[CancelDefined, ...] = ()
    paths: tuple[tuple[str, str], ...] = ()
    """(event name, match path) pairs that this function's waits and rules join on; path `` joins on the name."""
    cron: CronDefined | None = None
    timeout_ms: int | None = None
    discard_after_ms: int | None = None
    lookback_ms: int = 86_400_000
    on_failure: str = ""
    """Function id of the handler run that a failure starts; empty for none."""
    on_cancel: str = ""
    patches: tuple[str, ...] = ()
    """Literals of `ctx.patched(...)` in the source: a run began after a change if its definition holds it."""
    source: str = ""
    """Digest of the function's syntax tree: a changed body is new code, a moved line is not."""


class Definition(Struct, frozen=True, omit_defaults=True, gc=False):
    """A whole app. `expressions` is the version of the expression language its conditions are written in."""

    app: str
    digest: str
    functions: tuple[FunctionDefined, ...] = ()
    expressions: int = 1
    window_ms: int = 172_800_000
    """How long ids of events and of ended runs are kept, at least every function's lookback."""
