"""What the log learns of an app: rules, paths, patches, digests; and paths that no event has."""

import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from perdure.errors import DefinitionError
from perdure.sdk.app import App
from perdure.sdk.context import Context
from perdure.sdk.definition import check_wait
from perdure.sdk.events import CancelOn, Event, EventType, Match, Trigger
from perdure.sdk.matching import Join, join
from perdure.sdk.paths import check_data_path, fields_of
from perdure_schemas.definition import CancelDefined, Definition, FunctionDefined, TriggerDefined


class Owner(Struct):
    id: str


class Cart(Struct):
    cart_id: str
    owner: Owner | None = None
    notes: dict[str, str] = {}


class Purchased(Struct):
    order_id: str
    total: int


ADDED = EventType("cart/added", Cart)
BOUGHT = EventType("cart/bought", Purchased)
CHECKED_OUT = EventType("cart/checked_out", Cart)
PATH = "data.cart_id"
NAME = "shop/named"


def refused(define: Callable[[], Any]) -> str:
    with pytest.raises(DefinitionError) as caught:
        define()
    return str(caught.value)


@pytest.fixture
def app() -> App:
    return App("shop")


async def helper(ctx: Context) -> None:
    await ctx.wait_for_event("from/helper", match="data.cart_id")
    await deeper(ctx)


async def deeper(ctx: Context) -> None:
    await ctx.wait_for_event("from/deeper")
    await helper(ctx)


async def never_named(ctx: Context) -> None:
    await ctx.wait_for_event("from/nowhere")


class TestCancelRules:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            (CancelOn("x", match="data.cart_id"), CancelDefined("x", "data.cart_id", "data.cart_id")),
            (CancelOn("x", match='data["cart_id"]'), CancelDefined("x", "data.cart_id", "data.cart_id")),
            (CancelOn("x", match={"data.kind": "all"}), CancelDefined("x", "data.kind", value="all")),
            (
                CancelOn("x", match={"data.kind": 1, "data.on": True, 'data["a b"]': 'q"'}),
                CancelDefined("x", "data.kind", value=1, where='async.data.on == true && async.data["a b"] == "q\\""'),
            ),
            (
                CancelOn("x", where="async.data.id == event.data.cart_id && async.data.n > 3"),
                CancelDefined("x", "data.id", "data.cart_id", where="async.data.n > 3"),
            ),
            (CancelOn("x", where="'a' == async.data.id"), CancelDefined("x", "data.id", value="a")),
            (CancelOn("x", where="async.data.n == 1.5"), CancelDefined("x", where="async.data.n == 1.5")),
            (CancelOn("x", where="async.data.n > 3"), CancelDefined("x", where="async.data.n > 3")),
            (
                CancelOn("x", match="data.cart_id", where="async.data.n > 3", timeout="1h"),
                CancelDefined("x", "data.cart_id", "data.cart_id", where="async.data.n > 3", timeout_ms=3_600_000),
            ),
            (CancelOn("x"), CancelDefined("x")),
        ],
    )
    def test_one_join_and_what_remains(self, app: App, rule: CancelOn, expected: CancelDefined) -> None:
        @app.function(on=ADDED, cancel_on=rule)
        async def flow(ctx: Context, event: Event[Cart]) -> None: ...

        assert flow.spec.defined.cancel_on == (expected,)
        assert flow.spec.defined.paths == (("x", expected.path),)

    def test_a_union_is_a_rule_for_each_name(self, app: App) -> None:
        @app.function(on=ADDED, cancel_on=CancelOn(ADDED | CHECKED_OUT, match="data.cart_id"))
        async def flow(ctx: Context, event: Event[Cart]) -> None: ...

        assert [rule.event for rule in flow.spec.defined.cancel_on] == ["cart/added", "cart/checked_out"]

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            (
                CancelOn(BOUGHT, match="data.cart_id"),
                "match='data.cart_id': Purchased has no 'cart_id' (has order_id, total)",
            ),
            (
                CancelOn("x", match="data.order_id"),
                "match='data.order_id': Cart has no 'order_id' (has cart_id, owner, notes)",
            ),
            (CancelOn("x", match="data.owner.name"), "match='data.owner.name': Owner has no 'name' (has id)"),
            (CancelOn("x", match="data.cart_id.x"), "match='data.cart_id.x': str has no 'x' (has no fields)"),
            (
                CancelOn(BOUGHT, where="async.data.cart == event.data.cart_id"),
                "where='async.data.cart == event.data.cart_id': Purchased has no 'cart' (has order_id, total)",
            ),
            (CancelOn(BOUGHT, where="async.data.totl > 3"), "Purchased has no 'totl' (has order_id, total)"),
            (CancelOn("x", where="event.data.cart == ''"), "Cart has no 'cart' (has cart_id, owner, notes)"),
            (CancelOn("x", match="cart_id"), "match='cart_id': an event has no 'cart_id'"),
            (CancelOn("x", match="data"), "objects match nothing"),
            (CancelOn("cart/*", match="data.cart_id"), "cancel_on 'cart/*': '*' stands for many names"),
            (CancelOn("x", where="async.data.x ="), "say '=='"),
            (CancelOn("x", timeout=5), 'cancel_on: timeout=5: a number has no unit; say "5s" or "5m"'),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            (CancelOn("x", match={}), "cancel_on: match={} compares nothing"),
            (CancelOn("x", match={"data.x": 1.5}), "cancel_on: match={'data.x': 1.5}: a text, a whole number"),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
            (CancelOn("x", match=5), "cancel_on: match=5: a path such as 'data.id'"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ],
    )
    def test_what_can_match_nothing_is_refused_where_it_is_defined(
        self, app: App, rule: CancelOn, message: str
    ) -> None:
        def define() -> None:
            @app.function(on=ADDED, cancel_on=rule, on_failure=fails)
            async def flow(ctx: Context, event: Event[Cart]) -> None: ...

        assert message in refused(define)
        assert (app.functions, app.handlers) == ({}, {})

    def test_open_types_rule_nothing_out(self, app: App) -> None:
        @app.function(on=ADDED, cancel_on=CancelOn("x", match="data.notes.any"))
        async def notes(ctx: Context, event: Event[Cart]) -> None: ...

        @app.function(on="cart/added", cancel_on=CancelOn("x", match="data.any.thing"))
        async def anything(ctx: Context, event: Event) -> None: ...

        @app.function(on=ADDED, cancel_on=CancelOn("x", match="user.id"))
        async def user(ctx: Context, event: Event[Cart]) -> None: ...

        assert len(app.definition().functions) == 3

    def test_the_hint_counts_where_on_is_a_name(self, app: App) -> None:
        def define() -> None:
            @app.function(on="cart/*", cancel_on=CancelOn("x", match="data.order_id"))
            async def flow(ctx: Context, event: Event[Cart]) -> None: ...

        assert "Cart has no 'order_id'" in refused(define)

    def test_of_several_triggers_one_is_enough(self, app: App) -> None:
        @app.function(on=BOUGHT | ADDED, cancel_on=CancelOn("x", match="data.cart_id"))
        async def flow(ctx: Context, event: Event[Cart | Purchased]) -> None: ...

        def define() -> None:
            @app.function(on=BOUGHT | ADDED, cancel_on=CancelOn("x", match="data.id"))
            async def bad(ctx: Context, event: Event[Cart | Purchased]) -> None: ...

        assert refused(define) == "match='data.id': Purchased has no 'id' (has order_id, total)"

    def test_background_functions_compare_their_parameters(self, app: App) -> None:
        @app.background(cancel_on=CancelOn("x", match="data.tenant"))
        async def good(ctx: Context, tenant: str) -> None: ...

        assert good.spec.defined.cancel_on == (CancelDefined("x", "data.tenant", "data.tenant"),)

        def typo() -> None:
            @app.background(cancel_on=CancelOn("x", match="data.tenent"))
            async def bad(ctx: Context, tenant: str, n: int) -> None: ...

        def nested() -> None:
            @app.background(cancel_on=CancelOn("x", match="data.cart.id"))
            async def bad(cart: Cart) -> None: ...

        def no_data() -> None:
            @app.background(cancel_on=CancelOn("x", match="user.id"))
            async def bad(cart: Cart) -> None: ...

        assert refused(typo) == "match='data.tenent': bad has no parameter 'tenent' (has tenant, n)"
        assert refused(nested) == "match='data.cart.id': Cart has no 'id' (has cart_id, owner, notes)"
        assert "a background function has no event" in refused(no_data)

    def test_a_schedule_has_nothing_to_compare(self, app: App) -> None:
        def define() -> None:
            @app.cron("@daily", cancel_on=CancelOn("x", match="data.id"))
            async def nightly() -> None: ...

        assert "a cron function has no event to compare with; give a value" in refused(define)

        @app.cron("@daily", cancel_on=CancelOn("x", match={"data.id": 1}))
        async def nightly() -> None: ...

        assert nightly.spec.defined.cancel_on == (CancelDefined("x", "data.id", value=1),)


async def fails(ctx: Context, ended: Any) -> None:
    await ctx.wait_for_event("approval/given", match="data.x")


class TestTriggers:
    def test_conditions_are_kept(self, app: App) -> None:
        both: Any = [Trigger(ADDED, where="event.data.cart_id != ''"), Trigger("other/*", where="event.data.n > 3")]

        @app.function(on=both)
        async def flow(ctx: Context, event: Event[Any]) -> None: ...

        assert flow.spec.defined.triggers == (
            TriggerDefined("cart/added", "event.data.cart_id != ''"),
            TriggerDefined("other/*", "event.data.n > 3"),
        )

    def test_their_fields_are_checked(self, app: App) -> None:
        def define() -> None:
            @app.function(on=Trigger(ADDED, where="has(event.data.x) && event.data.totl > 3"))
            async def flow(ctx: Context, event: Event[Cart]) -> None: ...

        assert "Cart has no 'totl'" in refused(define)


class TestWaitsInTheSource:
    def test_every_form_that_the_source_shows(self, app: App) -> None:
        @app.function(on=ADDED)
        async def flow(ctx: Context, event: Event[Cart]) -> None:
            await ctx.wait_for_event("by/literal", match="data.cart_id", timeout="1h")
            await ctx.wait_for_event(CHECKED_OUT, match=PATH)
            await ctx.wait_for_event(NAME)
            await ctx.wait_for_event(event="by/keyword", where="async.data.id == event.data.cart_id")
            await ctx.wait_for_event("by/value", match={"data.order": event.data.cart_id, "data.other": 1})
            await ctx.wait_for_event("by/condition", where="async.data.n > 3")

        assert flow.spec.defined.paths == (
            ("by/condition", ""),
            ("by/keyword", "data.id"),
            ("by/literal", "data.cart_id"),
            ("by/value", "data.order"),
            ("cart/checked_out", "data.cart_id"),
            ("shop/named", ""),
        )

    def test_nested_functions_and_helpers_of_the_module_count(self, app: App) -> None:
        @app.function(on=ADDED)
        async def flow(ctx: Context, event: Event[Cart]) -> None:
            async def inner() -> None:
                await ctx.wait_for_event("from/inner")

            await helper(ctx)
            await inner()

        assert [event for event, _ in flow.spec.defined.paths] == ["from/deeper", "from/helper", "from/inner"]

    def test_variables_of_the_function_around_are_resolved(self, app: App) -> None:
        local = EventType("cart/local", Cart)

        @app.function(on=ADDED)
        async def flow(ctx: Context, event: Event[Cart]) -> None:
            await ctx.wait_for_event(local | CHECKED_OUT, match="data.cart_id")

        assert [event for event, _ in flow.spec.defined.paths] == ["cart/checked_out", "cart/local"]

    def test_what_only_running_tells_is_left_to_waits(self, app: App) -> None:
        @app.function(on=ADDED, waits=[CHECKED_OUT, "a/b", "cart/late  data['order_id']"])
        async def flow(ctx: Context, event: Event[Cart]) -> None:
            name, path = "some" + event.id, "data.x"
            options: dict[str, Any] = {"match": path}
            await ctx.wait_for_event(name, match="data.x")
            await ctx.wait_for_event("some/event", match=path)
            await ctx.wait_for_event("some/event", **options)
            await ctx.wait_for_event("some/event", where=f"async.data.x == {path}")

        assert flow.spec.defined.paths == (("a/b", ""), ("cart/checked_out", ""), ("cart/late", "data.order_id"))

    @pytest.mark.parametrize(
        ("waits", "message"),
        [
            (["a/*"], "'*' stands for many names"),
            (["a cart_id"], "waits='cart_id': an event has no 'cart_id'"),
            ([""], "waits is empty"),
        ],
    )
    def test_bad_waits(self, app: App, waits: list[str], message: str) -> None:
        @app.function(on=ADDED, waits=waits)
        async def flow(ctx: Context, event: Event[Cart]) -> None: ...

        assert message in refused(app.load)

    def test_types_are_checked_on_both_sides(self, app: App) -> None:
        @app.function(on=ADDED)
        async def incoming(ctx: Context, event: Event[Cart]) -> None:
            await ctx.wait_for_event(BOUGHT, match="data.cart_id", timeout="1d")

        @app.function(on=ADDED)
        async def trigger(ctx: Context, event: Event[Cart]) -> None:
            await ctx.wait_for_event("x", match="data.order_id")

        @app.function(on=ADDED)
        async def value(ctx: Context, event: Event[Cart]) -> None:
            await ctx.wait_for_event(BOUGHT, match={"data.cart_id": event.data.cart_id})

        with pytest.raises(DefinitionError) as caught:
            _ = incoming.spec
        assert str(caught.value) == "match='data.cart_id': Purchased has no 'cart_id' (has order_id, total)"
        assert caught.value.__notes__ == [f"in event function 'incoming', {incoming.declared.place}"]
        assert (
            refused(lambda: trigger.spec) == "match='data.order_id': Cart has no 'order_id' (has cart_id, owner, notes)"
        )
        assert refused(lambda: value.spec) == "match='data.cart_id': Purchased has no 'cart_id' (has order_id, total)"

    def test_handlers_wait_too(self) -> None:
        app = App("shop", on_failure=fails)
        assert app.specs["app:on_failure"].defined.paths == (("approval/given", "data.x"),)

    def test_patches(self, app: App) -> None:
        @app.function(on=ADDED)
        async def flow(ctx: Context, event: Event[Cart]) -> None:
            if ctx.patched("second-mail") and ctx.patched("a-b"):
                ctx.patched(event.id)

        assert flow.spec.defined.patches == ("second-mail", "a-b")


class TestCheckWait:
    defined = FunctionDefined("flow", "event", paths=(("cart/bought", "data.cart_id"), ("shop/closed", "")))

    def test_declared_waits_pass(self) -> None:
        check_wait(self.defined, "cart/bought", "data.cart_id")
        check_wait(self.defined, "shop/closed", "")

    def test_others_name_what_to_write(self) -> None:
        assert refused(lambda: check_wait(self.defined, "cart/bought", "data.id")) == (
            "wait_for_event('cart/bought', match='data.id'): the source of 'flow' does not show this wait; declare it "
            "with waits=['cart/bought data.id'] (declared: 'cart/bought data.cart_id', 'shop/closed')"
        )
        assert "waits=['cart/bought']" in refused(lambda: check_wait(self.defined, "cart/bought", ""))
        assert "(declared: none)" in refused(lambda: check_wait(FunctionDefined("f", "event"), "x", ""))

    def test_wildcards_are_for_triggers(self) -> None:
        assert refused(lambda: check_wait(self.defined, "cart/*", "")) == (
            "wait_for_event('cart/*'): a wait is for one event name; race several with ctx.race"
        )


@pytest.mark.parametrize(
    ("match", "where", "expected"),
    [
        ("", "", Join("")),
        ("data.x", "", Join("data.x", "data.x")),
        ({"data.x": "v"}, "", Join("data.x", value="v")),
        (
            {"data.x": True},
            "async.data.a || async.data.b == 1",
            Join("data.x", value=True, where="async.data.a || async.data.b == 1"),
        ),
        (
            {"data.x": 1, "data.y": 2},
            "async.data.a || async.data.b == 1",
            Join("data.x", value=1, where="async.data.y == 2 && (async.data.a || async.data.b == 1)"),
        ),
        (
            "",
            "async.data.x == 1 && async.data.y == event.data.z",
            Join("data.x", value=1, where="async.data.y == event.data.z"),
        ),
    ],
)
def test_joins(match: Match, where: str, expected: Join) -> None:
    assert join(match, where, "wait_for_event") == expected


@dataclass
class Data:
    a: int
    inner: "Data | None" = None


class Typed(TypedDict, total=False):
    a: int


class Renamed(Struct, rename="camel"):
    cart_id: str


class Model(BaseModel):
    a: int
    b: int = Field(alias="bee", default=0)


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    b: int = Field(alias="bee", default=0)


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Broken(Struct):
    a: "Nowhere"  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


class TestPaths:
    @pytest.mark.parametrize(
        ("data", "fields"),
        [
            (Cart, ["cart_id", "owner", "notes"]),
            (Data, ["a", "inner"]),
            (Typed, ["a"]),
            (Renamed, ["cartId"]),
            (Model, ["a", "bee"]),
            (ByName, ["bee", "b"]),
            (Cart | None, ["cart_id", "owner", "notes"]),
            (Annotated[Data, "x"], ["a", "inner"]),
            (Data | Typed, ["a", "inner"]),
            (str, []),
            (int | None, []),
        ],
    )
    def test_closed_types(self, data: Any, fields: list[str]) -> None:
        found = fields_of(data)
        assert found is not None
        assert list(found) == fields

    @pytest.mark.parametrize(
        "data", [Any, dict[str, Any], dict, Extra, Broken, object, list[int], Cart | dict[str, int]]
    )
    def test_open_types(self, data: Any) -> None:
        assert fields_of(data) is None

    def test_they_nest(self) -> None:
        check_data_path("match", ["inner", "inner", "a"], Data)
        assert refused(lambda: check_data_path("match='x'", ["inner", "b"], Data)) == (
            "match='x': Data has no 'b' (has a, inner)"
        )
        assert "Data | Typed has no 'b'" in refused(lambda: check_data_path("m", ["b"], Data | Typed))


SOURCE = '''
from perdure.sdk.app import App
from perdure.sdk.context import Context
from perdure.sdk.events import Event

app = App("digest")

def rate():
    """A helper."""
    return 3

@app.step(retries=3)
async def charge(n: int) -> int:
    return n * rate()

@app.function(on="order/placed", timeout="1h")
async def flow(ctx: Context, event: Event) -> int:
    """Charges."""
    # a comment
    return await charge(rate())

@app.function(on="order/other")
async def other(ctx: Context, event: Event) -> None:
    pass
'''


@pytest.fixture
def defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Definition]]:
    """The definition of `SOURCE` with replacements."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def define(*changes: tuple[str, str]) -> Definition:
        source = SOURCE
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        (tmp_path / "digest_app.py").write_text(source)
        sys.modules.pop("digest_app", None)
        linecache.clearcache()
        app: App = __import__("digest_app").app
        return app.definition()

    yield define
    sys.modules.pop("digest_app", None)


class TestDigest:
    def test_it_is_stable_and_named(self, defined: Callable[..., Definition]) -> None:
        first, again = defined(), defined()
        assert first == again
        assert first.digest.startswith("x3:")

    @pytest.mark.parametrize(
        "change",
        [
            ("\napp = App", "\n\n\n# moved\napp = App"),
            ("    # a comment\n", ""),
            ('"""Charges."""', '"""Charges once."""'),
            ('    """A helper."""\n', ""),
            ("return n * rate()", "return (n *\n        rate())"),
        ],
    )
    def test_what_means_the_same_is_the_same(self, defined: Callable[..., Definition], change: tuple[str, str]) -> None:
        assert defined(change) == defined()

    @pytest.mark.parametrize(
        ("change", "changed"),
        [
            (("return await charge(rate())", "return await charge(4)"), ["flow"]),
            (("return 3", "return 4"), ["flow"]),
            (('timeout="1h"', 'timeout="2h"'), ["flow"]),
            (("return n * rate()", "return n"), []),
            (("retries=3", "retries=4"), []),
            (('"order/other"', '"order/another"'), ["other"]),
        ],
    )
    def test_what_means_something_else_is_another(
        self, defined: Callable[..., Definition], change: tuple[str, str], changed: list[str]
    ) -> None:
        before, after = defined(), defined(change)
        assert after.digest != before.digest
        pairs = zip(before.functions, after.functions, strict=True)
        assert [old.id for old, new in pairs if old != new] == changed

    def test_a_new_function_is_another(self, defined: Callable[..., Definition]) -> None:
        assert defined(('@app.function(on="order/other")', "@app.background")).digest != defined().digest

    def test_the_window_covers_every_lookback(self, defined: Callable[..., Definition]) -> None:
        assert defined().window_ms == 172_800_000
        assert defined(('timeout="1h"', 'lookback="7d"')).window_ms == 604_800_000

    def test_it_crosses_the_log(self, defined: Callable[..., Definition]) -> None:
        definition = defined()
        assert msgspec.json.decode(msgspec.json.encode(definition), type=Definition) == definition

    def test_functions_stand_in_order_of_their_ids(self, defined: Callable[..., Definition]) -> None:
        assert [function.id for function in defined().functions] == ["flow", "other"]


def without_source(body: str) -> App:
    """An app made by exec: its functions have no source to be read."""
    scope: dict[str, Any] = {}
    code = f"""
        from perdure.sdk.app import App
        from perdure.sdk.context import Context
        from perdure.sdk.events import Event
        app = App("exec")
        @app.function(on="x", waits=["late data.id"])
        async def flow(ctx: Context, event: Event) -> bool:
            await ctx.wait_for_event("late", match="data.id")
            return {body}
    """
    exec(textwrap.dedent(code), scope)
    return scope["app"]  # type: ignore[no-any-return]


class TestWithoutSource:
    def test_waits_are_those_declared(self) -> None:
        assert without_source("True").definition().functions[0].paths == (("late", "data.id"),)

    def test_the_digest_is_of_the_bytecode(self) -> None:
        one = without_source("event.name in {'a', 'b'}").definition()
        assert one == without_source("event.name in {'a', 'b'}").definition()
        assert one.digest != without_source("event.name in {'a', 'c'}").definition().digest
        assert one.digest != without_source("event.id in {'a', 'b'}").definition().digest
