"""Several versions of an app's code on one log: who holds which runs, who parks and who goes on."""

from collections.abc import Callable, Coroutine
from typing import Any

from perdure import App, Context, Event
from perdure.flow.routing import partition_of_run
from perdure.sdk.port import FunctionView
from perdure_schemas.records import AppActivated, Owner, OwnerStarted, RunParked, V
from tests.partition.cluster import Cluster, Pod
from tests.partition.shop import place

Body = Callable[[Context, Event], Coroutine[Any, Any, Any]]
EVERYTHING = range(4)


async def identity(value: int) -> int:
    return value


async def first(ctx: Context, event: Event) -> str:
    await ctx.step("pick", identity, 1)
    await ctx.sleep("1h")
    await ctx.step("pack", identity, 2)
    await ctx.sleep("1h")
    return "first"


async def second(ctx: Context, event: Event) -> str:
    """Goes on as `first` began, and then another way."""
    await ctx.step("pick", identity, 1)
    await ctx.sleep("1h")
    await ctx.step("wrap", identity, 2)
    await ctx.sleep("1h")
    return "second"


async def stranger(ctx: Context, event: Event) -> str:
    """Cannot go on where the others began."""
    await ctx.step("weigh", identity, 1)
    return "stranger"


async def patched(ctx: Context, event: Event) -> str:
    """Keeps both ways."""
    return await (stranger if ctx.patched("weigh") else second)(ctx, event)


def app_of(body: Body | None) -> App:
    app = App("shop")
    if body is None:

        @app.function(on="returned", id="other")
        async def other(ctx: Context, event: Event) -> None: ...
    else:
        app.function(on="placed", id="order", retries=0)(body)
    return app


async def pods(*bodies: Body | None) -> tuple[Cluster, list[Pod]]:
    """A pod of each code, started in this order; the first has everything by then."""
    cluster = Cluster()
    found: list[Pod] = []
    for index, body in enumerate(bodies):
        found.append(await cluster.pod(str(index), app_of(body)).start())
        if not index:
            cluster.deal({"0": EVERYTHING})
        await cluster.settle()
    return cluster, found


async def all_to(cluster: Cluster, pod: Pod) -> None:
    cluster.deal({pod.name: EVERYTHING})
    await cluster.settle()


def outcome(cluster: Cluster) -> tuple[str, str]:
    (run,) = cluster.runs()
    return run.status, bytes(run.result.inline).decode() if run.result and run.result.inline else ""


async def order_of(pod: Pod) -> FunctionView:
    return next(view for view in await pod.port.functions() if view.id == "order")


async def test_what_newer_code_advanced_is_held_by_older_code_and_goes_on_under_newer() -> None:
    cluster, (old, new) = await pods(first, second)
    await place(cluster, old, "e")
    await all_to(cluster, new)
    await cluster.advance(3_700_000)
    await all_to(cluster, old)
    await cluster.advance(3_700_000)
    assert (await order_of(old)).held == 1
    assert outcome(cluster) == ("running", "")
    assert await old.port.status(cluster.runs()[0].id) == "running"
    assert not cluster.all(RunParked)
    await all_to(cluster, new)
    assert outcome(cluster) == ("completed", '"second"')
    cluster.check()


async def test_what_newer_code_advanced_meanwhile_is_held_though_the_group_confirms_the_older_pod() -> None:
    """It was late to read that the newer one owned the partition, and has it again by then: no rebalance tells it."""
    cluster, (old, new) = await pods(first, second)
    await place(cluster, old, "e")
    old.log.freeze()
    await all_to(cluster, new)
    cluster.now += 3_700_000
    await cluster.settle()
    await new.kill()
    cluster.deal({old.name: EVERYTHING})
    old.log.thaw()
    await cluster.settle()
    await cluster.advance(3_700_000)
    assert (await order_of(old)).held == 1
    assert not cluster.all(RunParked)
    await all_to(cluster, await new.start())
    assert outcome(cluster) == ("completed", '"second"')
    cluster.check()


async def test_what_older_code_advanced_newer_code_takes() -> None:
    cluster, (old, new) = await pods(first, second)
    await place(cluster, old, "e")
    await all_to(cluster, new)
    assert (await order_of(new)).held == 0
    await cluster.advance(7_300_000)
    assert outcome(cluster) == ("completed", '"second"')


async def test_a_run_that_older_code_began_after_a_deploy_is_not_of_the_patch() -> None:
    """The newer code is the active one, and has not come to the pod that has the partition."""
    cluster, (old, new) = await pods(first, patched)
    await place(cluster, old, "e")
    await all_to(cluster, new)
    await cluster.advance(7_300_000)
    assert outcome(cluster) == ("completed", '"second"')
    assert not cluster.all(RunParked)
    await place(cluster, new, "f")
    assert sorted(bytes(run.result.inline) for run in cluster.runs() if run.result and run.result.inline) == [
        b'"second"',
        b'"stranger"',
    ]


async def test_older_code_goes_on_with_what_newer_code_has_not_touched() -> None:
    cluster, (old, _) = await pods(first, second)
    await place(cluster, old, "e")
    await cluster.advance(7_300_000)
    assert outcome(cluster) == ("completed", '"first"')


async def test_activation_of_older_code_lets_go_what_it_held() -> None:
    """`worker --activate`: a deploy is taken back, and what the newer code began is tried under the older."""
    cluster, (old, new) = await pods(first, second)
    await place(cluster, old, "e")
    await all_to(cluster, new)
    await cluster.advance(3_700_000)
    await all_to(cluster, old)
    assert (await order_of(old)).held == 1
    again = await cluster.pod("again", app_of(first)).start(activate=True)
    await cluster.settle()
    assert {one.number for one in cluster.all(AppActivated)} == {1, 2, 3}
    assert (await order_of(old)).held == 0
    (parked,) = cluster.all(RunParked)
    assert "pack" in parked.message, "its code asks for what the newer one did not record"
    await all_to(cluster, again)
    assert len(cluster.all(RunParked)) == 1, "the same code would only park it again"
    await all_to(cluster, new)
    await cluster.advance(3_700_000)
    assert outcome(cluster) == ("completed", '"second"')
    cluster.check()


async def test_an_older_pod_that_starts_again_does_not_undo_a_deploy() -> None:
    cluster, (old, _) = await pods(first, second)
    await old.kill()
    old = await cluster.pod("old again", app_of(first)).start()
    await all_to(cluster, old)
    assert {one.number for one in cluster.all(AppActivated)} == {1, 2}


async def test_a_pod_that_lacks_a_function_holds_its_runs() -> None:
    cluster, (old,) = await pods(first)
    await place(cluster, old, "e")
    lacks = await cluster.pod("lacks", app_of(None)).start()
    await all_to(cluster, lacks)
    await cluster.advance(3_700_000)
    held = await order_of(lacks)
    assert (held.kind, held.held) == ("missing", 1)
    await all_to(cluster, old)
    await cluster.advance(7_300_000)
    assert outcome(cluster) == ("completed", '"first"')
    assert not cluster.all(RunParked)


async def test_a_parked_run_goes_on_where_its_code_owns_it() -> None:
    """Newer code cannot go on and parks it: nothing was taken further by that, and the code before may."""
    cluster, (old, new) = await pods(first, stranger)
    await place(cluster, old, "e")
    await all_to(cluster, new)
    assert outcome(cluster)[0] == "parked"
    await all_to(cluster, old)
    await cluster.advance(7_300_000)
    assert outcome(cluster) == ("completed", '"first"')
    cluster.check()


async def test_an_opinion_that_did_not_count_is_given_again() -> None:
    """The run was parked by an owner that was none any more: it is not parked, and nobody runs it."""
    cluster, (old, new) = await pods(first, stranger)
    await place(cluster, old, "e")
    (run,) = cluster.runs()
    partition = partition_of_run(run.id, cluster.partitions)
    # Its words about this partition are late: somebody else's owner.started comes first.
    new.log.held_back = lambda to, value: to == partition and b"run.parked" in value
    await all_to(cluster, new)
    assert outcome(cluster)[0] == "running"
    old.node.append(partition, OwnerStarted(Owner(50, "x"), "c", 1, v=V))
    await cluster.settle()
    new.log.thaw()
    await cluster.settle()
    assert [one.owner.number for one in cluster.all(RunParked)] == [2, 51]
    assert outcome(cluster)[0] == "parked"
    cluster.check()
