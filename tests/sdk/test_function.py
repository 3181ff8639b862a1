"""Calling, enqueueing and stepping: where it goes, and what is refused on the way."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import Raw, Struct
from pydantic import BaseModel

from perdure.errors import DefinitionError, OutsideRun, PayloadError
from perdure.sdk import binding, function, step
from perdure.sdk.app import App
from perdure.sdk.context import Context
from perdure.sdk.events import Event, EventType
from perdure.sdk.function import Function
from perdure.worker import arguments
from perdure.worker.arguments import CallOptions, arguments_json, decode_arguments

app = App("calls")


class Row(Struct):
    id: str
    amount: float = 0


class Number(int):
    pass


class Model(BaseModel):
    at: datetime


ROW = EventType("row/added", Row)
GONE = EventType("row/gone", Model)
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@app.background
async def crawl(ctx: Context, url: str, depth: int = 2, *, rows: list[Row] | None = None) -> list[str]:
    return [url] * depth


@app.background
def total(*amounts: float, **labels: str) -> float:
    return sum(amounts)


@app.background
def by_position(a: int, /, b: int) -> int:
    return a + b


@app.background
def anything(value, other=None):
    return value


@app.cron("0 6 * * *")
async def nightly() -> int:
    return 1


@app.function(on=ROW | GONE)
async def stored(ctx: Context, event: Event[Row | Model]) -> str:
    return event.name


@app.step
async def double(n: int) -> int:
    return 2 * n


@app.step(retries=1)
def halve(n: int) -> float:
    return n / 2


class Recorder:
    """Stands for an open client, or for a run."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.unawaited: dict[str, Any] = {}

    def call(self, *asked: Any, **how: Any) -> Any:
        self.asked.append((*asked, how))
        return asyncio.sleep(0, "called")

    def enqueue(self, *asked: Any) -> Any:
        self.asked.append(asked)
        return asyncio.sleep(0, "enqueued")

    @property
    def execution(self) -> "Recorder":
        return self

    def identity(self, name: str) -> str:
        return f"0/{name}#1"

    def step(self, *asked: Any) -> Any:
        self.asked.append(asked)
        return asyncio.sleep(0, "stepped")


@pytest.fixture
def client() -> Iterator[Recorder]:
    recorder = Recorder()
    binding.bind("calls", recorder)
    yield recorder
    binding.unbind("calls", recorder)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(function, "current", lambda: recorder)
    monkeypatch.setattr(step, "_branch", lambda: recorder)
    monkeypatch.setattr(step, "run_step", lambda execution, branch, op, *asked: branch.step(*asked))
    return recorder


class TestOutside:
    async def test_calls_go_to_the_open_client(self, client: Recorder) -> None:
        assert await crawl.call("u", depth=3) == "called"  # type: ignore[comparison-overlap]
        assert await crawl.enqueue("u") == "enqueued"
        assert client.asked == [(crawl, ("u",), {"depth": 3}, CallOptions(), {}), (crawl, ("u",), {}, CallOptions())]

    def test_without_one_it_says_what_to_open(self) -> None:
        expected = "no engine for 'calls' in this process: open Engine\\(app\\) or Client\\(app\\)"
        with pytest.raises(OutsideRun, match=rf"^crawl\.call\(\): {expected}$"):
            _ = crawl.call("u")
        with pytest.raises(OutsideRun, match=rf"^nightly\.enqueue\(\): {expected}$"):
            _ = nightly.enqueue()

    async def test_the_last_opened_wins_and_closing_goes_in_any_order(self, client: Recorder) -> None:
        second = Recorder()
        binding.bind("calls", second)
        assert binding.client_for("calls") is second
        binding.unbind("calls", client)
        assert binding.client_for("calls") is second
        binding.unbind("calls", second)
        binding.unbind("calls", second)
        with pytest.raises(OutsideRun):
            binding.client_for("calls")

    async def test_steps_are_plain_functions(self) -> None:
        assert await double(2) == 4
        assert await halve(3) == 1.5
        assert await double.options(retries=9)(2) == 4

    def test_a_plain_step_runs_when_it_is_awaited(self) -> None:
        ran: list[int] = []
        steps = App("x").step(ran.append)
        coroutine = steps(1)
        assert ran == []
        asyncio.run(_await(coroutine))
        assert ran == [1]


async def _await(awaitable: Any) -> Any:
    return await awaitable


class TestInside:
    async def test_steps_are_asked_of_the_run_when_called(self, run: Recorder) -> None:
        coroutine = double(2)
        assert run.asked == [(double.spec, (2,), {})]
        assert await coroutine == "stepped"  # type: ignore[comparison-overlap]

    async def test_so_are_calls_and_enqueues(self, run: Recorder, client: Recorder) -> None:
        called, enqueued = crawl.call("u"), crawl.options(delay="1m").enqueue("u")
        assert run.asked == [
            (crawl.spec, ("u",), {}, CallOptions(), {"awaited": True}),
            (crawl.spec, ("u",), {}, CallOptions(delay_ms=60_000), {"awaited": False}),
        ]
        assert client.asked == []
        await asyncio.gather(called, enqueued)


class TestNoCall:
    def test_it_says_what_to_do_instead(self) -> None:
        called: Any = crawl
        with pytest.raises(DefinitionError) as caught:
            called("u")
        assert str(caught.value) == (
            "functions have no __call__: await crawl.call(x) waits for the result, await crawl.enqueue(x) starts it; "
            "crawl.fn is the plain function"
        )

    def test_a_schedule_is_run_now_by_enqueue(self) -> None:
        called: Any = nightly
        with pytest.raises(DefinitionError, match=r"await nightly\.enqueue\(\) runs it now"):
            called()

    async def test_the_plain_function_is_at_hand(self) -> None:
        assert await nightly.fn() == 1


class TestArguments:
    @pytest.mark.parametrize(
        ("target", "args", "kwargs", "message"),
        [
            (crawl, (), {}, "crawl() misses 'url'"),
            (crawl, (), {"depth": 1}, "crawl() misses 'url'"),
            (crawl, ("u", 1, 2), {}, "crawl() takes 2 positional arguments (url, depth), got 3"),
            (crawl, ("u",), {"dept": 1}, "crawl() has no parameter 'dept'; did you mean 'depth'?"),
            (crawl, ("u",), {"zzz": 1}, "crawl() has no parameter 'zzz' (it has depth, rows, url)"),
            (crawl, ("u",), {"url": "v"}, "crawl() got 'url' twice: by position and by name"),
            (crawl, ("u",), {"ctx": 1}, "crawl() has no parameter 'ctx' (it has depth, rows, url)"),
            (by_position, (), {"a": 1, "b": 2}, "by_position() takes 'a' by position only"),
            (by_position, (1,), {}, "by_position() misses 'b'"),
            (nightly, (1,), {}, "nightly() takes no positional arguments, got 1"),
            (nightly, (), {"n": 1}, "nightly() has no parameter 'n': it takes none"),
        ],
    )
    def test_the_signature_is_checked_at_the_call(
        self, target: Function[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
    ) -> None:
        for ask in (target.call, target.enqueue):
            with pytest.raises(PayloadError) as caught:
                ask(*args, **kwargs)
            assert str(caught.value) == message

    def test_they_cross_the_log_in_their_types(self) -> None:
        raw = arguments_json(crawl.spec, ("u",), {"rows": [Row("r", 1)], "depth": 3})
        assert bytes(raw) == b'[["u"],{"depth":3,"rows":[{"id":"r","amount":1}]}]'
        assert decode_arguments(crawl.spec, raw) == (("u",), {"depth": 3, "rows": [Row("r", 1.0)]})

    def test_defaults_are_left_to_the_function(self) -> None:
        assert decode_arguments(crawl.spec, arguments_json(crawl.spec, ("u",), {})) == (("u",), {})

    def test_rest_and_extra_parameters(self) -> None:
        raw = arguments_json(total.spec, (1, 2.5), {"b": "y", "a": "x"})
        assert bytes(raw) == b'[[1,2.5],{"a":"x","b":"y"}]'
        assert decode_arguments(total.spec, raw) == ((1.0, 2.5), {"a": "x", "b": "y"})
        with pytest.raises(PayloadError, match=r"argument 'labels' of total\(\) does not fit"):
            arguments_json(total.spec, (), {"a": 1})

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            (lambda: arguments_json(crawl.spec, (5,), {}), r"^argument 'url' of crawl\(\) does not fit the parameter"),
            (
                lambda: arguments_json(anything.spec, ((1,),), {}),
                r"^argument 'value' of anything\(\) would come back .*\(tuple .*: annotate the parameter 'value'$",
            ),
            (lambda: arguments_json(anything.spec, (object(),), {}), "object cannot be written as JSON"),
            (lambda: decode_arguments(crawl.spec, b"[[5],{}]"), r"^argument 'url' of crawl\(\) does not fit str: "),
            (lambda: decode_arguments(crawl.spec, b'[["u"],{"rows":[{}]}]'), "argument 'rows' of crawl"),
            (lambda: decode_arguments(crawl.spec, b"[[],{}]"), r"crawl\(\) misses 'url'"),
            (lambda: decode_arguments(crawl.spec, b"{}"), r"written as \[\[positional…\], \{keyword: …\}\]"),
            (lambda: decode_arguments(crawl.spec, b"nonsense"), "written as"),
        ],
    )
    def test_what_does_not_fit_names_the_parameter(self, ask: Callable[[], Any], message: str) -> None:
        with pytest.raises(PayloadError, match=message):
            ask()

    def test_an_event_function_is_called_with_an_event(self) -> None:
        for event in (ROW(Row("r", 2.0), id="e", ts=NOW), GONE(Model(at=NOW))):
            raw = arguments_json(stored.spec, (event,), {})
            assert decode_arguments(stored.spec, raw) == ((event,), {})

    @pytest.mark.parametrize(
        ("target", "args"),
        [
            (anything, (1,)),
            (anything, ({"a": [None, 1.5]},)),
            (crawl, ("u",)),
            (crawl, ("u", 3)),
            (by_position, (1, 2)),
            (nightly, ()),
        ],
    )
    def test_in_one_go_they_are_what_they_are_part_by_part(
        self, target: Function[..., Any], args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = arguments_json(target.spec, args, {})
        read = decode_arguments(target.spec, raw)
        monkeypatch.setattr(arguments, "_read_at_once", lambda *_: None)
        assert (bytes(arguments_json(target.spec, args, {})), decode_arguments(target.spec, raw)) == (bytes(raw), read)

    def test_a_subclass_of_a_scalar_is_no_scalar(self) -> None:
        with pytest.raises(PayloadError, match="would come back different"):
            arguments_json(anything.spec, (Number(1),), {})

    def test_raw_arguments_come_from_anywhere(self) -> None:
        assert decode_arguments(by_position.spec, Raw(b"[[1,2],{}]")) == ((1, 2), {})


class TestOptions:
    def test_they_add_up_and_leave_the_function_alone(self) -> None:
        later = crawl.options(delay="1h", metadata={"tenant": "t"}).options(idempotency_key="k", discard_after="2d")
        assert later._options == CallOptions(3_600_000, "k", 172_800_000, {"tenant": "t"})
        assert crawl._options == CallOptions()
        assert later.id == crawl.id
        assert later.spec is crawl.spec

    @pytest.mark.parametrize(
        ("given", "found"),
        [
            ({"delay": 5}, 'delay=5: a number has no unit; say "5s" or "5m"'),
            ({"discard_after": "soon"}, "discard_after='soon'"),
            ({"idempotency_key": ""}, "idempotency_key=''"),
            ({"idempotency_key": 7}, "idempotency_key=7"),
            ({"metadata": {"a": 1}}, r"metadata\['a'\]=1: a text"),
        ],
    )
    def test_bad_ones(self, given: dict[str, Any], found: str) -> None:
        with pytest.raises(DefinitionError, match=found):
            crawl.options(**given)

    def test_a_handle_knows_its_run(self) -> None:
        assert crawl.handle("abc").id == "abc"


class TestSteps:
    def test_they_look_like_what_they_wrap(self) -> None:
        assert vars(double)["__name__"] == "double"
        assert str(inspect.signature(double.fn)) == "(n: int) -> int"
        assert repr(double) == "<step 'double'>"
        assert repr(crawl) == "<background function 'crawl'>"

    def test_their_spec(self) -> None:
        assert (double.spec.name, double.spec.is_async, double.spec.returns) == ("double", True, int)
        assert (halve.spec.is_async, halve.spec.returns, halve.spec.retries.limit) == (False, float, 1)

    def test_options_make_a_copy(self) -> None:
        other = halve.options(name="half", timeout="5s", record_input=False)
        assert (other.spec.name, other.spec.timeout_ms, other.spec.record_input) == ("half", 5000, False)
        assert (other.spec.retries.limit, other.fn) == (1, halve.fn)
        assert (halve.spec.name, halve.spec.timeout_ms) == ("halve", None)
