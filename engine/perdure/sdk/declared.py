"""What a decorator was told of a function, checked, before anything of its source or types is looked at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from perdure.sdk.options import FunctionOptions
from perdure.worker.spec import FunctionSpec
from perdure_schemas.definition import CronDefined, TriggerDefined


@dataclass(slots=True, eq=False)
class Declared:
    """A function as its decorator saw it. Types and source wait for the first use: they may name later things."""

    app: str
    id: str
    kind: str
    """`event`, `background`, `cron` or `handler`."""
    fn: Callable[..., Any]
    place: str
    options: FunctionOptions
    takes_context: bool = True
    triggers: tuple[TriggerDefined, ...] = ()
    types: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Event name → type of its data, where the trigger is an `EventType`."""
    cron: CronDefined | None = None
    on_failure: str = ""
    """Function id of the handler run that a failure starts: its own, else the app's."""
    on_cancel: str = ""
    local: Mapping[str, Any] = field(default_factory=dict[str, Any])
    spec: FunctionSpec | None = None
