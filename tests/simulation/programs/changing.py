"""Functions that each version of the app defines otherwise: triggers, paths, rules, timeouts.

`clerk` is in all versions, `vigil` in all but the first. What they do is the same in all, so that a run may go on
under any code that has it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from perdure import App, CancelOn, Context, Ended, Event

_CLERK_ON: tuple[list[str], ...] = (["stop"], ["bought", "cart"], ["bought", "stop"])
_VIGIL_ON: tuple[list[str], ...] = ([], ["bought"], ["bought", "stop"])
_VIGIL_ENDS: tuple[list[CancelOn], ...] = (
    [],
    [CancelOn("cart", match="data.n")],
    [CancelOn("cart", match="data.n", where="async.data.n > 2"), CancelOn("stop", match="data.n", timeout="20m")],
)


def add_changing(
    app: App,
    version: int,
    remind: Callable[[], Coroutine[Any, Any, str]],
    ended: Callable[[Context, Ended], Coroutine[Any, Any, str]],
) -> None:
    """`remind` is their one step."""

    @app.function(on=_CLERK_ON[version])
    async def clerk(ctx: Context, event: Event) -> str:
        return await remind()

    if not version:
        return

    @app.function(
        on=_VIGIL_ON[version],
        timeout="90m" if version == 1 else "30m",
        cancel_on=_VIGIL_ENDS[version],
        on_cancel=ended,
        on_failure=ended,
        waits=["go data.n"],
    )
    async def vigil(ctx: Context, event: Event) -> str:
        """Waits by a path that no other function has, and the first version does not know."""
        await ctx.wait_for_event("go", match="data.n", timeout="50m")
        return await remind()
