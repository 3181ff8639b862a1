"""The app whose functions play programs. Newer versions of it have a change, and functions that older ones lack."""

from typing import Any

import msgspec

from perdure import App, CancelOn, Context, Ended, Event, Function, Retry, Step
from tests.simulation.programs import syntax
from tests.simulation.programs.changing import add_changing
from tests.simulation.programs.player import Player, Scene, Stage, Told
from tests.simulation.programs.syntax import LIMIT, Program

WAITS = ["go data.k", "go data.u", "go", "begin data.k", "begin data.u", "begin"]
REMIND = syntax.Step(value=7)


class Troupe:
    """Apps that are made once and play in one scene after another: to read their source takes as long as a world."""

    def __init__(self) -> None:
        self.stage = Stage(Scene())
        self._apps: dict[tuple[int, bool, bool], App] = {}

    def app(self, version: int, *, pools: bool, changing: bool) -> App:
        key = version, pools, changing
        if key not in self._apps:
            self._apps[key] = make_app(self.stage, version, pools=pools, changing=changing)
        return self._apps[key]


def make_app(stage: Stage, version: int = 0, *, pools: bool = False, changing: bool = False) -> App:
    """A new app. `version` 0 lacks the change "tea"; each version has a function of its own.

    `pools`: it has a step that members of a worker pool run. `changing`: versions differ in what their functions are
    defined to be, too.
    """
    app = App("programs")

    @app.step(retries=Retry(LIMIT))
    async def work(job: syntax.Step) -> str:
        return await stage.scene.work(job)

    @app.step(retries=Retry(LIMIT))
    def labour(job: syntax.Step) -> str:
        return stage.scene.labour(job)

    steps: dict[str, Step[[syntax.Step], str]] = {"async": work, "thread": labour}
    if pools:

        async def errand(job: syntax.Step) -> str:
            return await stage.scene.work(job)

        # Members import nothing here: they have the app that this function makes.
        errand.__qualname__ = "errand"
        steps["pool"] = app.step(retries=Retry(LIMIT), queue="errands")(errand)

    async def ended(ctx: Context, what: Ended) -> str:
        return await work(REMIND)

    def player(ctx: Context, *, own: bool, tea: bool) -> Player:
        return Player(ctx, stage.scene, steps, play, version=version, own=own, tea=tea)

    if version == 0:

        @app.background(id="play", retries=1, waits=WAITS)
        async def play_before(ctx: Context, program: Program) -> Told:
            return await player(ctx, own=False, tea=False).play(program)

        play: Function[[Program], Told] = play_before
    else:

        @app.background(id="play", retries=1, waits=WAITS)
        async def play_after(ctx: Context, program: Program) -> Told:
            return await player(ctx, own=False, tea=ctx.patched("tea")).play(program)

        play = play_after

    @app.function(
        on="begin",
        retries=1,
        waits=WAITS,
        cancel_on=CancelOn("stop", match="data.k"),
        on_cancel=ended,
        on_failure=ended,
    )
    async def begun(ctx: Context, event: Event) -> Told:
        program: Program = msgspec.convert(event.data["program"], Program)
        told = await player(ctx, own=True, tea=False).play(program)
        if event.data["again"]:
            await ctx.continue_as(Event("begin", {**event.data, "again": event.data["again"] - 1}))
        return told

    @app.function(on="cart", cancel_on=CancelOn("cart", match="data.k"), on_cancel=ended)
    async def abandoned(ctx: Context, event: Event) -> str:
        """Each event starts a run and ends the run before it of the same cart."""
        if await ctx.wait_for_event("bought", match="data.k", timeout="30m"):
            return "bought"
        await work(REMIND)
        return "reminded"

    @app.function(
        on="cart",
        timeout="90m",
        cancel_on=[
            CancelOn("cart", match="data.u", where="async.data.n > event.data.n", timeout="20m"),
            CancelOn("bought", match="data.k"),
        ],
        on_failure=ended,
    )
    async def basket(ctx: Context, event: Event) -> str:
        """Another rule for the same events; and the run's own timeout ends what nobody cancels."""
        await work(REMIND)
        other = await ctx.wait_for_event("cart", match="data.k")
        return str(other.id)

    if changing:
        add_changing(app, version, lambda: work(REMIND), ended)

    if version:

        @app.background(id=f"of version {version}")
        async def of_version() -> int:
            return version

    return app


def begin_data(k: int, u: int, again: int, program: Program) -> dict[str, Any]:
    """The data of a `begin` event."""
    return {"k": k, "u": u, "n": k, "again": again, "program": msgspec.to_builtins(program)}
