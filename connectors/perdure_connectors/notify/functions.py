"""The functions that tell: part of the app that they tell about, and run by its own engine.

    perdure/function.failed, run.parked, partition.halted
      └─► `notice`, a run for each
            │ enqueues `tell` under one key for each minute, kind and function, and awaits its end
            └─► `tell`: sleeps a little, looks who awaits it, cancels them, posts once

**A notice that was cancelled by `tell` is told of**, because `tell` posts after that and nothing but success, or many
attempts, ends this. One that sees the end of `tell` was too late for it, and goes to the next minute's. Both come by
the same way, from one partition to one other in order, so that there is no third case: none is lost or counted twice.
Only one that has waited for ten minutes goes on by itself.
"""

import asyncio
import logging
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, cast
from weakref import WeakKeyDictionary

from perdure import App, Context, Event, Retry, RunFailed, current_step
from perdure.errors import DefinitionError, UnknownRun
from perdure.flow.patterns import RESERVED, is_own
from perdure.sdk.declared import Declared
from perdure.sdk.function import Function
from perdure.sdk.options import function_options
from perdure.worker.lineage import in_step
from perdure_connectors.notify.message import Destination, Happened, Message, happened, link_to
from perdure_connectors.notify.rules import Rules

GATHER_S = 3
"""So long a message waits for more of the same."""

WINDOW_S = 60
"""So long after it nothing more is told of the same kind and function."""

PATIENCE = "10m"
"""So long a notice waits for `tell`, whose partition may be halted. Then another tells, and perhaps both."""

CHUNK = 2_000
"""Notices that are cancelled by one step's result: it has to fit into a record."""

RETRIES = Retry(limit=40, first="1s", factor=2, longest="10m")
"""About six hours."""

_log = logging.getLogger("perdure.notify")


def notify(
    app: App,
    *destinations: Destination,
    on: Iterable[str] | None = None,
    link: str = "",
    functions: Iterable[Function[..., Any]] | None = None,
) -> None:
    """Tells the destinations when a run of `app` fails or is parked, and when a partition halts.

    `on`: which of "failed", "parked", "halted"; all, if left out. `link`: where a run is seen, such as
    `https://perdure.example/v1/runs/{run}`. All processes of the app say the same, and their own secrets.

    `functions`: it is for these, in the place of what was said for the app; what is left out here is as it was said
    there. `on=[]`: nobody is told of them.
    """
    of = None if functions is None else [_id(app, function) for function in functions]
    rules = _RULES.get(app) or Rules()
    rules.add(of, destinations, on, link)
    _RULES[app] = rules
    _Notifier(app, rules).declare()


_RULES: WeakKeyDictionary[App, Rules] = WeakKeyDictionary()


def _id(app: App, function: Function[..., Any]) -> str:
    known = app.functions.get(function.id)
    if known is None or known.declared is not function.declared or is_own(function.id):
        raise DefinitionError(f"notify: functions=…: {function!r} is no function of {app!r}")
    return function.id


class _Notifier:
    """The functions of one app, and what they need of this process."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app = app
        self.rules = rules

    def declare(self) -> None:
        """Adds them to the app. Without its `on_failure`: that is for the user's functions."""

        async def tell(ctx: Context, first: Happened) -> None:
            await ctx.sleep(f"{GATHER_S}s")
            count = 0
            while waiting := await ctx.step("who waits", who_waits, count):
                await asyncio.gather(*(noticed.handle(run).cancel(reason="told") for run in waiting))
                count += len(waiting)
            if count:
                await self.spread(ctx, first, count)
                await ctx.sleep(f"{WINDOW_S - GATHER_S}s")

        async def notice(ctx: Context, event: Event[Any]) -> None:
            what = happened(event)
            if what.kind == "halted":
                # There are few of them, and `tell` might be a run of the very partition that halted.
                return await self.spread(ctx, what, 1)
            minute = 0
            while True:
                minute = max(minute + 1, int(ctx.now().timestamp()) // WINDOW_S)
                key = f"{what.kind} {what.about} {minute}"
                telling = await told.options(idempotency_key=key).enqueue(what)
                try:
                    await telling.result(timeout=PATIENCE)
                except (RunFailed, UnknownRun, TimeoutError):
                    ctx.logger.warning("%s was ended by somebody, or its partition is away: the next tells", telling.id)

        triggers = self.rules.triggers()
        told = cast("Function[[Happened], None]", self._function("tell", "background", tell))
        noticed = self._function("notice", "event", notice, triggers=triggers)

    def _function(self, name: str, kind: str, fn: Any, **more: Any) -> Function[..., Any]:
        id = RESERVED + name
        options = function_options({}, name, "notify")
        function: Function[..., Any] = Function(Declared(self.app.name, id, kind, fn, "perdure", options, **more))
        self.app.functions[id] = function
        return function

    async def spread(self, ctx: Context, first: Happened, count: int) -> None:
        """Returns when each destination has it, or was given up."""
        at_ms = round(ctx.now().timestamp() * 1000)
        # Recorded: a run that begins here may end in a process with other settings.
        names = await ctx.step("destinations", lambda: sorted(self.rules.rule_for(first).names))
        posts = (ctx.step(f"post to {name}", self.post, name, first, count, at_ms, retries=RETRIES) for name in names)
        for failure in await asyncio.gather(*posts, return_exceptions=True):
            if isinstance(failure, Exception):
                ctx.logger.error("gave up telling of %s %s: %s", first.about, first.kind, failure)

    async def post(self, name: str, first: Happened, count: int, at_ms: int) -> None:
        # What is of this process stays out of the arguments: they are the same wherever the run goes on.
        message = Message(self.app.name, first, count, at_ms, link_to(self.rules.rule_for(first).link, first.run))
        destination = self.rules.destinations.get(name)
        if destination is None:
            _log.error("there is no destination %r here any more: nobody was told by it: %s", name, message.title)
            return
        key = blake2b(current_step().key.encode(), digest_size=16).hexdigest()
        await destination.deliver(message, key)


async def who_waits(after: int) -> list[str]:
    """Who awaits this run, in the order in which they came. Its partition is always at hand where it runs."""
    inside = in_step.get()
    assert inside is not None, "called as a step"
    execution = inside.execution
    state = execution.processor.view.runs.get(execution.run_id)
    return [one.run for one in state.watchers[after : after + CHUNK]] if state is not None else []
