"""What the decorators take, what they make of it, and how they refuse the rest."""

import inspect
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from perdure.errors import DefinitionError
from perdure.sdk.app import App
from perdure.sdk.context import Context
from perdure.sdk.ended import Ended
from perdure.sdk.events import CancelOn, Event, EventType
from perdure.sdk.function import Function
from perdure.sdk.options import Retry
from perdure.sdk.step import Step
from perdure.worker.spec import RetryPolicy


class Cart(Struct):
    cart_id: str


class Pool:
    """What no log can hold."""


ADDED = EventType("cart/added", Cart)


async def tell(ctx: Context, ended: Ended) -> None: ...


async def plain(ctx: Context, event: Event[Cart]) -> str:
    return event.data.cart_id


@pytest.fixture
def app() -> App:
    return App("shop")


def refused(define: Callable[[], Any]) -> str:
    with pytest.raises(DefinitionError) as caught:
        define()
    return str(caught.value)


class TestApp:
    def test_it_has_all_parts(self) -> None:
        @asynccontextmanager
        async def pools():
            yield

        app = App("shop", include=["shop.tasks"], lifespan=pools, on_failure=tell)
        assert (app.name, app.include, app.lifespan) == ("shop", ("shop.tasks",), pools)
        assert list(app.handlers) == ["app:on_failure"]
        assert repr(app) == "App('shop')"

    @pytest.mark.parametrize("name", ["", " shop", "a/b", "a:b", "shöp", "a b", "x" * 201, 5, None, "a\n"])
    def test_bad_names(self, name: Any) -> None:
        assert "App name=" in refused(lambda: App(name))

    def test_include_is_a_list(self) -> None:
        assert refused(lambda: App("a", include="shop.tasks")) == (
            "include='shop.tasks': a list is needed, such as include=['shop.tasks']"
        )


class TestFunction:
    def test_an_event_function(self, app: App) -> None:
        made = app.function(on=ADDED)(plain)
        assert isinstance(made, Function)
        assert app.functions == {"plain": made}
        spec = made.spec
        assert (spec.id, spec.kind, spec.fn, spec.is_async, spec.takes_context) == ("plain", "event", plain, True, True)
        assert (dict(spec.data_types), spec.returns) == ({"cart/added": Cart}, str)
        assert spec.retries == RetryPolicy()

    def test_all_options(self, app: App) -> None:
        @app.function(
            on="cart/added",
            id="buy",
            retries=Retry(limit=3, first="2s", factor=3, longest=timedelta(minutes=1), never_on=(ValueError,)),
            timeout="14d",
            discard_after="1h",
            cancel_on=[CancelOn("cart/removed", match="data.cart_id"), CancelOn("shop/closed", timeout="2h")],
            waits=["cart/paid", "cart/bought data.cart_id"],
            lookback="3d",
            on_failure=tell,
            on_cancel=tell,
        )
        async def anything(ctx: Context, event: Event) -> None: ...

        defined = anything.spec.defined
        assert anything.spec.retries == RetryPolicy(3, 2_000, 3.0, 60_000, (ValueError,))
        assert (defined.id, defined.timeout_ms, defined.discard_after_ms) == ("buy", 1_209_600_000, 3_600_000)
        assert (defined.lookback_ms, defined.on_failure, defined.on_cancel) == (
            259_200_000,
            "buy:on_failure",
            "buy:on_cancel",
        )
        assert [rule.event for rule in defined.cancel_on] == ["cart/removed", "shop/closed"]
        assert defined.cancel_on[1].timeout_ms == 7_200_000

    def test_two_of_one_id_are_refused_with_both_places(self, app: App) -> None:
        app.function(on=ADDED)(plain)
        here = f"{__file__}:{inspect.getsourcelines(plain)[1]}"
        assert refused(lambda: app.background(plain)) == (
            f"two functions have the id 'plain', at {here} and {here}: give one of them id=…"
        )

    def test_another_id_makes_it_another_function(self, app: App) -> None:
        app.function(on=ADDED)(plain)
        app.function(on="cart/removed", id="again")(plain)
        assert list(app.functions) == ["plain", "again"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"retrys": 3}, "@app.function: no option 'retrys'; did you mean 'retries'?"),
            ({"zzz": 3}, "@app.function: no option 'zzz'; there are id, retries, timeout, "),
            ({"timeout": 300}, 'timeout=300: a number has no unit; say "300s" or "5m"'),
            ({"timeout": "0s"}, "timeout='0s': must be longer than zero"),
            ({"lookback": 1.5}, "lookback=1.5: a number has no unit"),
            ({"discard_after": True}, "discard_after=True"),
            ({"retries": -1}, "retries: limit=-1: 0 means a single attempt"),
            ({"retries": "3"}, "retries='3': a number of further attempts, or Retry(limit=…, first=…)"),
            ({"retries": True}, "retries=True: a number of further attempts"),
            ({"retries": Retry(limit=2.5)}, "retries: limit=2.5: a whole number"),  # type: ignore[arg-type]
            ({"retries": Retry(factor=0.5)}, "retries: factor=0.5: at least 1"),
            ({"retries": Retry(first=1)}, 'retries: first=1: a number has no unit; say "1s"'),  # type: ignore[arg-type]
            ({"retries": Retry(never_on=("x",))}, "never_on=('x',): exception classes"),  # type: ignore[arg-type]
            ({"id": "a/b"}, "id='a/b': ':' and '/' are not allowed"),
            ({"id": ""}, "id='': at least one character"),
            ({"cancel_on": "cart/removed"}, "cancel_on='cart/removed': say for example cancel_on=CancelOn("),
            ({"waits": "cart/removed"}, "waits='cart/removed': a list is needed, such as waits=['cart/removed']"),
            ({"waits": ADDED}, "waits=EventType('cart/added', Cart): a list is needed"),
            ({"waits": [5]}, "waits=5: say for example"),
            ({"on_failure": "tell"}, "on_failure='tell': a plain async function (ctx, ended) is needed"),
        ],
    )
    def test_bad_options(self, app: App, options: dict[str, Any], message: str) -> None:
        assert message in refused(lambda: app.function(on=ADDED, **options)(plain))
        assert app.functions == {}

    def test_unknown_options_are_refused_before_the_function_is_seen(self, app: App) -> None:
        bad: Any = {"timout": "1s"}
        assert "did you mean 'timeout'?" in refused(lambda: app.function(on=ADDED, **bad))
        assert "@app.cron: no option 'timout'" in refused(lambda: app.cron("* * * * *", **bad))
        assert "@app.background: no option 'timout'" in refused(lambda: app.background(**bad))
        assert "@app.step: no option 'timout'" in refused(lambda: app.step(**bad))

    def test_flow_control_is_not_there_yet(self, app: App) -> None:
        bad: Any = {"throttle": 5}
        assert "no option 'throttle'" in refused(lambda: app.function(on=ADDED, **bad))


async def event_first(event: Event, ctx: Context) -> None: ...
async def only_event(event: Event) -> None: ...
async def three(ctx: Context, event: Event, more: int) -> None: ...
async def by_name(ctx: Context, *, event: Event) -> None: ...
def not_async(ctx: Context, event: Event) -> None: ...
async def yields(ctx: Context, event: Event):
    yield 1


async def other_first(request: int, event: Event) -> None: ...


class TestSignatures:
    @pytest.mark.parametrize(
        ("fn", "message"),
        [
            (
                event_first,
                "event_first: Context is the first parameter: write async def event_first(ctx: Context, event",
            ),
            (only_event, "only_event takes (event: perdure.sdk.events.Event) -> None: write async def only_event(ctx"),
            (three, "write async def three(ctx: Context, event: Event)"),
            (by_name, "write async def by_name(ctx: Context, event: Event)"),
            (not_async, "not_async cannot wait for anything: write async def not_async(ctx: Context, event: Event)"),
            (yields, "@app.function: yields yields, and a generator cannot be replayed: return a list"),
            (other_first, "other_first: Context is the first parameter"),
            ("name", "@app.function('name'): options are given by name"),
            (5, "@app.function: a function is needed, not 5"),
            (Pool, "@app.function: a function is needed, not <class"),
        ],
    )
    def test_functions_of_events(self, app: App, fn: Any, message: str) -> None:
        assert message in refused(lambda: app.function(on=ADDED)(fn))

    def test_a_bare_context_will_do(self, app: App) -> None:
        async def bare(ctx, event): ...

        assert app.function(on=ADDED)(bare).spec.takes_context

    def test_background_functions_may_have_a_context_or_not(self, app: App) -> None:
        @app.background
        async def with_it(ctx: Context, n: int) -> int:
            return n

        @app.background(retries=2)
        async def without(n: int) -> int:
            return n

        @app.background
        def in_a_thread(n: int = 1) -> int:
            return n

        specs = app.specs
        assert [spec.takes_context for spec in specs.values()] == [True, False, False]
        assert [spec.is_async for spec in specs.values()] == [True, True, False]
        assert [dict(spec.parameters) for spec in specs.values()] == [{"n": int}] * 3

    def test_background_signatures(self, app: App) -> None:
        def thread(ctx: Context, n: int) -> None: ...

        async def late(n: int, ctx: Context, m: int) -> None: ...

        async def bare(ctx, n: int) -> None: ...

        define: Any = app.background
        assert refused(lambda: define(thread)) == (
            "thread takes a Context, but only async def can await its ops: write async def"
        )
        assert refused(lambda: define(late)) == "late: Context is the first parameter: (ctx: Context, n, m)"
        assert refused(lambda: define(bare)) == "bare: annotate ctx: Context, or call the parameter otherwise"

    def test_parameters_must_be_able_to_cross_the_log(self, app: App) -> None:
        async def query(ctx: Context, pool: Pool) -> None: ...

        async def either(ctx: Context, pool: Pool | None) -> None: ...

        for fn in (query, either):
            made = app.background(fn)
            assert refused(partial(getattr, made, "spec")) == (
                f"{fn.__name__}(), parameter 'pool': Pool cannot cross the log as JSON: pass an id, and open "
                "what cannot be passed in App(lifespan=…)"
            )

    def test_cron_functions_take_nothing_or_a_context(self, app: App) -> None:
        @app.cron("0 6 * * 1-5", tz="Europe/Rome", catchup=True, retries=0)
        async def with_it(ctx: Context) -> None: ...

        @app.cron("@daily")
        async def without() -> None: ...

        rome = with_it.spec.defined.cron
        assert rome is not None
        assert (rome.line, rome.tz, rome.catchup) == ("0 6 * * 1-5", "Europe/Rome", True)
        assert (with_it.spec.takes_context, without.spec.takes_context) == (True, False)

    def test_cron_refusals(self, app: App) -> None:
        async def asks(tenant: str) -> None: ...

        def waits_not() -> None: ...

        cron: Any = app.cron
        assert refused(lambda: cron("@daily")(asks)) == (
            "asks: a schedule has no 'tenant' to give: (ctx: Context) or nothing"
        )
        assert "waits_not cannot wait for anything" in refused(lambda: cron("@daily")(waits_not))
        assert "61 * * * *" in refused(lambda: cron("61 * * * *"))
        assert "Europe/Rom" in refused(lambda: cron("@daily", tz="Europe/Rom"))
        assert "catchup=1: say True or False" in refused(lambda: cron("@daily", catchup=1))

    def test_a_method_cannot_be_a_step(self, app: App) -> None:
        def define() -> None:
            class Bank:
                @app.step
                async def pay(self, cents: int) -> None: ...

        assert refused(define) == (
            "@app.step: pay is a method, and 'self' cannot be written to the log: make it a function of its module"
        )


class TestHandlers:
    def test_each_is_a_function_of_its_own(self, app: App) -> None:
        app = App("shop", on_failure=tell)

        @app.function(on=ADDED, on_cancel=tell)
        async def with_cancel(ctx: Context, event: Event[Cart]) -> None: ...

        @app.background(on_failure=tell)
        async def with_failure() -> None: ...

        specs = app.specs
        assert set(specs) == {
            "with_cancel",
            "with_failure",
            "app:on_failure",
            "with_cancel:on_cancel",
            "with_failure:on_failure",
        }
        assert {spec.kind for id, spec in specs.items() if ":" in id} == {"handler"}
        assert with_cancel.spec.defined.on_failure == "app:on_failure"
        assert with_failure.spec.defined.on_failure == "with_failure:on_failure"
        handler = specs["app:on_failure"]
        assert (handler.fn, handler.takes_context, handler.defined.on_failure) == (tell, True, "")
        assert list(app.functions) == ["with_cancel", "with_failure"]

    def test_a_function_called_app_cannot_take_the_apps_own(self) -> None:
        app = App("shop", on_failure=tell)
        assert "give the function another id" in refused(lambda: app.background(id="app", on_failure=tell)(plain))

    def test_refusals(self, app: App) -> None:
        async def short(ended: Ended) -> None: ...

        decorated: Any = app.step(tell)
        bad: Any = short
        assert "write async def short(ctx: Context, ended: Ended)" in refused(lambda: App("x", on_failure=bad))
        assert "on_failure=<step 'tell'>: a plain async function" in refused(lambda: App("x", on_failure=decorated))


class TestSteps:
    def test_bare_and_with_options(self, app: App) -> None:
        @app.step
        async def one() -> int:
            return 1

        @app.step(retries=3, timeout="30s", name="deux", record_input=False)
        def two() -> int:
            return 2

        assert isinstance(one, Step)
        assert (one.spec.name, one.spec.retries.limit) == ("one", 4)
        assert (two.spec.name, two.spec.retries.limit, two.spec.timeout_ms) == ("deux", 3, 30_000)
        assert two.spec.record_input is False

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"timeout": 30}, 'timeout=30: a number has no unit; say "30s" or "30m"'),
            ({"record_input": "no"}, "record_input='no': say True or False"),
            ({"name": ""}, "name='': at least one character"),
            ({"retry": 3}, "@app.step: no option 'retry'; did you mean 'retries'?"),
        ],
    )
    def test_bad_options(self, app: App, options: dict[str, Any], message: str) -> None:
        step: Any = app.step
        assert message in refused(lambda: step(**options)(lambda: None))

    def test_a_name_by_position(self, app: App) -> None:
        step: Any = app.step
        assert refused(lambda: step("charge")) == (
            "@app.step('charge'): options are given by name, such as @app.step(name='charge')"
        )


FUTURE = """
from __future__ import annotations
from typing import TYPE_CHECKING
from msgspec import Struct
from perdure.sdk.app import App
from perdure.sdk.events import Event
if TYPE_CHECKING:
    from perdure.sdk.context import Context

app = App("future")

@app.step
async def early(n: int) -> Later: ...

@app.background
async def crawl(ctx: Context, row: Later, missing: Nowhere) -> list[Later]: ...

@app.function(on="x")
async def on_event(ctx: Context, event: Event[Later]) -> Nowhere: ...

class Later(Struct):
    n: int

def local():
    class Inner(Struct):
        n: int
    @app.step
    async def inner(row: Inner) -> Inner: ...
    return inner, Inner
"""


@pytest.fixture
def future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "future_app.py").write_text(FUTURE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("future_app")
    del sys.modules["future_app"]


class TestAnnotations:
    def test_names_defined_later_are_found_at_first_use(self, future: Any) -> None:
        assert future.early.spec.returns is future.Later
        assert future.crawl.spec.returns == list[future.Later]
        assert future.on_event.spec.data_types.get("x") is future.Later

    def test_names_found_nowhere_are_any_and_harm_no_other(self, future: Any) -> None:
        spec = future.crawl.spec
        assert spec.takes_context
        assert dict(spec.parameters) == {"row": future.Later, "missing": Any}
        assert future.on_event.spec.returns is Any

    def test_classes_of_the_function_around_are_found(self, future: Any) -> None:
        inner, kind = future.local()
        assert inner.spec.returns is kind


class TestInclude:
    def test_modules_add_to_the_app(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "tasks_of_shop.py").write_text("import includes\n@includes.app.background\nasync def task(): ...\n")
        (tmp_path / "includes.py").write_text(
            "from perdure.sdk.app import App\napp = App('shop', include=['tasks_of_shop'])\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        app = __import__("includes").app
        app.load()
        app.load()
        assert list(app.functions) == ["task"]

    def test_a_module_that_adds_to_another_app_of_that_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`python shop.py`, whose tasks say `from shop import app`: that is a second import, and a second App."""
        (tmp_path / "adds_elsewhere.py").write_text(
            "from perdure.sdk.app import App\napp = App('shop')\n@app.background\nasync def task(): ...\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        assert refused(App("shop", include=["adds_elsewhere"]).load) == (
            "include: 'adds_elsewhere' added 'task' to another App('shop') than the one that includes it: if that "
            "one's module is run as a script, move App(…) into a module that both import"
        )

    def test_a_missing_module_is_named(self) -> None:
        assert refused(App("a", include=["nowhere.tasks"]).load) == (
            "include=['nowhere.tasks']: there is no module 'nowhere'"
        )

    def test_a_module_that_fails_says_so_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
            App("a", include=["needs_more"]).load()

    def test_what_is_wrong_with_a_function_is_said_on_loading(self, app: App) -> None:
        @app.background
        async def query(pool: Pool) -> None: ...

        assert "Pool cannot cross the log" in refused(app.load)
