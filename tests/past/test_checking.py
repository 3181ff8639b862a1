"""`check` says of a change of code what the engine then does with the runs that are under way."""

from collections.abc import Awaitable, Callable

import pytest

from perdure import App, Context, Event
from perdure.past import checking
from perdure.past.checking import Check, Report
from perdure.past.replay import Replayer
from perdure.testing import TestEngine
from tests.evidence.folding import records

Body = Callable[[Context, Event], Awaitable[object]]


def text(value: object) -> str:
    """The work of every step."""
    return f"{value}"


async def begun(ctx: Context, event: Event) -> object:
    """Two steps; then it waits for somebody, an hour long."""
    a = await ctx.step("a", text, 1)
    b = await ctx.step("b", text, 2)
    said = await ctx.wait_for_event("said", timeout="1h")
    return [a, b, said is None, await ctx.step("last", text, 3)]


async def renamed(ctx: Context, event: Event) -> object:
    a = await ctx.step("a", text, 1)
    b = await ctx.step("bee", text, 2)
    said = await ctx.wait_for_event("said", timeout="1h")
    return [a, b, said is None, await ctx.step("last", text, 3)]


async def added_before(ctx: Context, event: Event) -> object:
    await ctx.step("new", text, 0)
    return await begun(ctx, event)


async def added_after(ctx: Context, event: Event) -> object:
    return [await begun(ctx, event), await ctx.step("new", text, 0)]


async def removed(ctx: Context, event: Event) -> object:
    a = await ctx.step("a", text, 1)
    said = await ctx.wait_for_event("said", timeout="1h")
    return [a, said is None, await ctx.step("last", text, 3)]


async def reordered(ctx: Context, event: Event) -> object:
    b = await ctx.step("b", text, 2)
    a = await ctx.step("a", text, 1)
    said = await ctx.wait_for_event("said", timeout="1h")
    return [a, b, said is None, await ctx.step("last", text, 3)]


async def in_a_branch(ctx: Context, event: Event) -> object:
    a = await ctx.step("a", text, 1)
    b = await ctx.step("b", text, 2) if event.data["n"] > 1 else ""
    said = await ctx.wait_for_event("said", timeout="1h")
    return [a, b, said is None, await ctx.step("last", text, 3)]


async def other_type(ctx: Context, event: Event) -> object:
    a = await ctx.step("a", text, 1)
    b = await ctx.step("b", text, 2, returns=list[int])  # type: ignore[arg-type]
    said = await ctx.wait_for_event("said", timeout="1h")
    return [a, b, said is None, await ctx.step("last", text, 3)]


async def other_timeout(ctx: Context, event: Event) -> object:
    a = await ctx.step("a", text, 1)
    b = await ctx.step("b", text, 2)
    said = await ctx.wait_for_event("said", timeout="2h")
    return [a, b, said is None, await ctx.step("last", text, 3)]


async def commented(ctx: Context, event: Event) -> object:
    # It asks for a, and for b.
    a = await ctx.step("a", text, 1)
    b = await ctx.step("b", text, 2)
    # And then somebody is to say something.
    said = await ctx.wait_for_event("said", timeout="1h")
    return [a, b, said is None, await ctx.step("last", text, 3)]


def app_of(body: Body, name: str = "f") -> App:
    app = App("checked")

    @app.function(id=name, on="go", retries=0)
    async def f(ctx: Context, event: Event) -> object:
        return await body(ctx, event)

    return app


async def checked(engine: TestEngine, app: App, finished: int = 0) -> Report:
    """What the check says of the engine's log; it writes nothing."""
    before = [list(records(engine.log, partition)) for partition in range(engine.log.partitions)]
    replayer = Replayer(app)
    report = await Check(replayer).log(engine.log, finished)
    await replayer.close()
    assert before == [list(records(engine.log, partition)) for partition in range(engine.log.partitions)]
    return report


CHANGES: dict[str, tuple[Body, str, dict[int, str], str]] = {
    "a step is renamed": (renamed, "f", {1: "parks", 2: "parks"}, "b is in the log and was not asked for bee"),
    "a step is added before": (
        added_before,
        "f",
        {1: "parks", 2: "parks"},
        "a is in the log and was not asked for new",
    ),
    "a step is added after": (added_after, "f", {1: "completed", 2: "completed"}, ""),
    "a step is removed": (removed, "f", {1: "parks", 2: "parks"}, "b is in the log and was not asked for wait:said"),
    "steps change places": (reordered, "f", {1: "parks", 2: "parks"}, "a is in the log and was not asked for b"),
    "a step moves into a branch": (
        *(in_a_branch, "f", {1: "parks", 2: "completed"}),
        "b is in the log and was not asked for wait:said",
    ),
    "a result has another type": (
        *(other_type, "f", {1: "parks", 2: "parks"}),
        "b has a result in the log that cannot be read as list[int]",
    ),
    "a wait has another timeout": (
        *(other_timeout, "f", {1: "parks", 2: "parks"}),
        "wait:said was recorded with other arguments wait:said",
    ),
    "a function has another id": (begun, "g", {1: "held", 2: "held"}, "this app has no function 'f'"),
    "a comment": (commented, "f", {1: "completed", 2: "completed"}, ""),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_a_change_does_to_runs_that_are_under_way(change: str) -> None:
    """The verdict, and what the engine then does with the changed code on this log."""
    body, name, expected, cause = CHANGES[change]
    async with TestEngine(app_of(begun)) as engine:
        for n in (1, 2):
            await engine.send("go", {"n": n}, id=f"e{n}")
        new = app_of(body, name)
        report = await checked(engine, new)
        breaks = {run: group.verdict for group in report.groups for run in group.examples if group.breaks}
        runs = {n: (await engine.runs(engine.app.functions["f"], event_id=f"e{n}"))[0].id for n in (1, 2)}
        assert {n: breaks.get(run, "completed") for n, run in runs.items()} == expected
        assert report.in_flight == 2
        assert sum(report.well.values()) + report.breaks == 2
        assert all(group.cause.startswith(cause) and group.function == "f" for group in report.groups)
        assert len(report.groups) == bool(report.breaks)

        engine.app = new
        await engine.crash()
        await engine.advance("3h")
        views = [processor.view for processor in engine.node.processors]
        states = {state.id: state.status for view in views for state in view.runs.values()}
        live = {"parked": "parks", "running": "held", "suspended": "held", "completed": "completed"}
        assert {n: live[states[run]] for n, run in runs.items()} == expected


async def test_runs_that_differ_in_one_way_are_one_group() -> None:
    async def loop(ctx: Context, event: Event) -> None:
        for n in range(event.data["n"]):
            await ctx.step("each", text, n)
        await ctx.sleep("1d")

    async def other(ctx: Context, event: Event) -> None:
        for n in range(event.data["n"]):
            await ctx.step("each" if n < event.data["n"] - 1 else "rest", text, n)
        await ctx.sleep("1d")

    async with TestEngine(app_of(loop)) as engine:
        for n in range(12):
            await engine.send("go", {"n": n + 1}, id=f"e{n}")
        report = await checked(engine, app_of(other))
        (group,) = report.groups
        assert (group.count, len(group.examples), group.verdict) == (12, 5, "parks")
        assert group.cause == "each is in the log and was not asked for rest"
        assert (await checked(engine, app_of(loop))).well == {"waits": 12}


async def test_ended_runs_are_a_sample_of_what_will_come() -> None:
    async with TestEngine(app_of(begun)) as engine:
        for n in range(6):
            await engine.send("go", {"n": n}, id=f"e{n}")
        await engine.finish()
        assert (await checked(engine, app_of(renamed))).in_flight == 0
        report = await checked(engine, app_of(renamed), finished=4)
        (group,) = report.groups
        assert (report.finished, group.count, group.finished, group.breaks) == (4, 4, 4, True)
        same = await checked(engine, app_of(commented), finished=4)
        assert same.well == {"as_recorded": 4}


async def test_what_has_ended_leaves_memory_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestEngine(app_of(begun)) as engine:
        for n in range(9):
            await engine.send("go", {"n": n}, id=f"e{n}")
            await engine.advance("20m")
        expected = await checked(engine, app_of(renamed), finished=3)
        assert (expected.in_flight, expected.finished, expected.breaks) == (2, 3, 5)
        monkeypatch.setattr(checking, "MOVED_AFTER", 1)
        assert await checked(engine, app_of(renamed), finished=3) == expected
