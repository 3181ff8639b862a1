"""What is too large for a record: refused, or stored outside the log with its digest in the record."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec import Raw

from perdure import App, Context, Ended, Engine, NonRetriable, PayloadError, StepError
from perdure.cli.pod import Pod, Role
from perdure.errors import LogError, PayloadTooLarge, PayloadUnavailable
from perdure.testing import TestEngine
from perdure.worker import worker
from perdure.worker.coding import RECORD_LIMIT_BYTES, STORED_FROM_BYTES, Payloads
from perdure.worker.places import Folder, digest_of, open_place
from perdure_schemas.payload import RESULTS_LIMIT_BYTES, Payload, Stored
from tests.worker.helpers import both_ways, failure

HUGE = 20 << 20


async def paint(text: str) -> str:
    """For steps in queues, whose functions stand at module level."""
    PAINTED.append(len(text))
    return text * (HUGE // len(text))


PAINTED: list[int] = []


class Reversing:
    """What encryption does."""

    def encode(self, payload: bytes, /) -> bytes:
        return bytes(payload.translate(bytes(range(255, -1, -1))))

    decode = encode


def largest_record(engine: TestEngine) -> int:
    log = engine.log
    return max(len(value) for p in range(log.partitions) for batch in log.read(p, 0) for value in batch.values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "payloads"


# Refused


@both_ways
@pytest.mark.parametrize("queued", [False, True])
async def test_a_result_that_no_record_takes_fails_its_step_once(evict: bool, queued: bool) -> None:
    app = App("shop")
    PAINTED.clear()
    step = app.step(queue="gpu")(paint) if queued else app.step(paint)

    @app.background
    async def flow() -> str:
        try:
            return await step("ab")
        except StepError as error:
            return f"{error.error_type} {error.attempts}: {error.message}"

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == (
            "perdure.errors.PayloadTooLarge 1: the result of step 'paint' has 20,971,522 bytes, and a record takes "
            '3,145,728: give the engine a place for what is large, Engine(…, payloads="file:///folder"), or keep it '
            "elsewhere and return its key"
        )
        assert PAINTED == [2]


async def test_a_result_that_a_record_just_takes() -> None:
    app = App("shop")

    @app.background
    async def flow() -> str:
        return "x" * (RECORD_LIMIT_BYTES - 2)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert len(engine.run(flow).output) == RECORD_LIMIT_BYTES - 2


async def test_a_run_whose_result_no_record_takes_fails() -> None:
    app = App("shop")

    @app.background
    async def flow() -> str:
        return "x" * HUGE

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert "the result of 'flow' has 20,971,522 bytes, and a record takes 3,145,728" in failure(engine.run(flow))


async def test_arguments_that_no_record_takes_are_refused() -> None:
    app = App("shop")
    embed = app.step(queue="gpu")(paint)

    @app.background
    async def child(text: str) -> int:
        return len(text)

    @app.background
    async def flow() -> str:
        return await embed("x" * HUGE)

    @app.background
    async def caller() -> int:
        return await child.call("x" * HUGE)

    async with TestEngine(app) as engine:
        with pytest.raises(PayloadTooLarge, match=r"what 'child' is called with has 20,971,529 bytes.*pass its key"):
            await child.enqueue("x" * HUGE)
        await flow.enqueue()
        await caller.enqueue()
        await engine.finish()
        assert "what step 'paint' is called with has 20,971,529 bytes" in failure(engine.run(flow))
        assert "what 'child' is called with has 20,971,529 bytes" in failure(engine.run(caller))


async def test_events_that_no_record_takes_are_refused() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.send("order/placed", {"text": "x" * HUGE})

    async with TestEngine(app) as engine:
        with pytest.raises(PayloadTooLarge, match=r"event 'order/placed' has 20,971,533 bytes of data.*send its key"):
            await engine.send("order/placed", {"text": "x" * HUGE})
        await flow.enqueue()
        await engine.finish()
        assert "event 'order/placed' has 20,971,533 bytes" in failure(engine.run(flow))


class Rejected(NonRetriable):
    pass


async def test_an_error_with_large_arguments_crosses_by_its_message() -> None:
    app = App("shop")

    @app.step
    async def check() -> None:
        raise Rejected("x" * HUGE)

    @app.background
    async def flow() -> str:
        try:
            await check()
        except StepError as error:
            return f"{error.caused_by(Rejected)} {len(error.message)}"
        return ""

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "True 4000"
        assert largest_record(engine) < 100_000


async def test_a_handler_gets_the_results_that_one_record_has_room_for() -> None:
    told: list[str] = []
    app = App("shop")

    @app.step
    async def small() -> str:
        return "charged"

    @app.step
    async def large() -> str:
        return "x" * RESULTS_LIMIT_BYTES

    @app.step
    async def huge() -> str:
        return "x" * (RECORD_LIMIT_BYTES - 2)

    async def undo(ctx: Context, ended: Ended) -> None:
        told.append(str(ended.result(small)))
        for step in (large, huge):
            try:
                ended.result(step)
            except PayloadTooLarge as error:
                told.append(str(error))

    @app.background(on_failure=undo)
    async def flow() -> None:
        await small()
        await large()
        await huge()
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert told[0] == "charged"
        assert [text.partition(":")[0] for text in told[1:]] == [
            "the result of 'large' was left out",
            "the result of 'huge' was left out",
        ]


# Stored


@both_ways
@pytest.mark.parametrize("codec", [None, Reversing()], ids=["plain", "coded"])
async def test_results_of_any_size_by_an_explicit_setting(evict: bool, codec: Reversing | None, folder: Path) -> None:
    """Of a step, a step in a queue, a called function and the run itself; on replay as live."""
    app = App("shop", codec=codec)

    @app.step
    async def render(text: str) -> str:
        return text * (HUGE // len(text))

    pooled = app.step(queue="gpu")(paint)

    @app.background
    async def child() -> list[str]:
        return ["c" * HUGE]

    @app.background
    async def flow(ctx: Context) -> str:
        first, second, [third] = await asyncio.gather(render("ab"), pooled("ba"), child.call())
        await ctx.sleep("1h")
        return first + second[:HUGE] + third

    async with TestEngine(app, evict=evict, payloads=folder.as_uri()) as engine:
        handle = await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "ab" * (HUGE // 2) + "ba" * (HUGE // 2) + "c" * HUGE
        assert len(await handle.result()) == 3 * HUGE
        assert largest_record(engine) < 10_000
        files = list(folder.iterdir())
        assert len(files) == 4
        assert all(digest_of(file.read_bytes()) == file.name for file in files)
        assert codec is None or not any(b"ababab" in file.read_bytes() for file in files)


async def test_what_fits_well_stays_in_the_log(folder: Path) -> None:
    app = App("shop")

    @app.step
    async def render(size: int) -> str:
        return "x" * size

    @app.background
    async def flow() -> int:
        return len(await render(STORED_FROM_BYTES - 2)) + len(await render(STORED_FROM_BYTES - 1))

    async with TestEngine(app, payloads=folder.as_uri()) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == 2 * STORED_FROM_BYTES - 3
        assert [file.stat().st_size for file in folder.iterdir()] == [STORED_FROM_BYTES + 1]


async def test_an_engine_that_is_opened_again_reads_what_the_one_before_wrote(folder: Path, durable_url: str) -> None:
    app, bodies, waits = App("shop"), list[int](), list[int]()

    @app.step
    async def render() -> str:
        bodies.append(1)
        return "x" * HUGE

    @app.background
    async def flow(ctx: Context) -> int:
        made = await render()
        waits.append(1)
        await ctx.wait_for_event("go")
        return len(made)

    async with Engine(app, log=durable_url, payloads=folder.as_uri()):
        handle = await flow.enqueue()
        async with asyncio.timeout(60):
            while not waits:
                await asyncio.sleep(0.01)
    async with Engine(app, log=durable_url, payloads=folder.as_uri()) as engine:
        await engine.send("go", {})
        assert await handle.result(timeout="60s") == HUGE
        assert len(bodies) == 1


# Not there


def spoil(file: Path) -> None:
    file.write_bytes(b"y" + file.read_bytes()[1:])


def cut(file: Path) -> None:
    os.truncate(file, 1000)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (Path.unlink, "cannot be read from file:///"),
        (spoil, "is damaged: it has 20,971,522 bytes of 20,971,522, and other content"),
        (cut, "is damaged: it has 1,000 bytes of 20,971,522"),
    ],
)
async def test_a_run_whose_payload_is_not_there_waits_for_it(
    harm: Callable[[Path], None],
    why: str,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets no wrong result, does not fail, and goes on when what was written is back."""
    monkeypatch.setattr(worker, "PUT_OFF_SECONDS", 0.01)
    app = App("shop")
    seen: list[str] = []

    @app.step
    async def render() -> str:
        return "x" * HUGE

    @app.background
    async def flow(ctx: Context) -> int:
        made = await render()
        await ctx.sleep("1h")
        seen.append(made[:1])
        return len(made)

    async with TestEngine(app, evict=True, payloads=folder.as_uri()) as engine:
        await flow.enqueue()
        [file] = folder.iterdir()
        whole = file.read_bytes()
        harm(file)
        await engine.advance("2h")
        assert seen == []
        assert engine.run(flow).status not in ("completed", "failed", "parked")
        assert why in caplog.text
        file.write_bytes(whole)
        async with asyncio.timeout(60):
            while not seen:
                await asyncio.sleep(0.01)
        await engine.finish()
        assert engine.run(flow).output == HUGE


async def test_a_place_that_takes_nothing_is_a_failure_that_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop")
    kept, times = Folder.write, list[int]()

    def write(self: Folder, name: str, data: bytes, /) -> None:
        times.append(len(data))
        if len(times) < 3:
            raise OSError(28, "No space left on device")
        kept(self, name, data)

    monkeypatch.setattr(Folder, "write", write)

    @app.step(retries=2)
    async def render() -> str:
        return "x" * HUGE

    @app.background
    async def flow() -> int:
        return len(await render())

    async with TestEngine(app, payloads=folder.as_uri()) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == HUGE
        assert len(times) == 3
        assert [file.name[:3] for file in folder.iterdir()] == ["b2-"], "no parts are left"


async def test_a_process_without_the_setting_says_what_it_lacks(folder: Path) -> None:
    given = Payloads(None, open_place(folder.as_uri()))
    payload = await given.put(b'"%s"' % (b"x" * HUGE), "it")
    with pytest.raises(PayloadUnavailable, match=r"b2-.{64} \(20,971,522 bytes\) lies outside.*PERDURE_PAYLOADS"):
        Payloads().json_of(payload)


async def test_what_is_written_again_heals_what_was_damaged(folder: Path) -> None:
    payloads = Payloads(None, open_place(folder.as_uri()))
    raw = b'"%s"' % (b"x" * HUGE)
    first = await payloads.put(raw, "it")
    [file] = folder.iterdir()
    cut(file)
    assert await payloads.put(raw, "it") == first
    assert payloads.json_of(first) == Raw(raw)


def test_a_write_that_breaks_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Folder(folder.as_uri())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        place.write("b2-00", b"x")
    assert list(folder.iterdir()) == []


async def test_objects_in_whatever_fsspec_reaches() -> None:
    pytest.importorskip("fsspec")
    payloads = Payloads(None, open_place(f"memory://{uuid4().hex}/payloads"))
    raw = b'"%s"' % (b"x" * HUGE)
    payload = await payloads.put(raw, "it")
    assert payload == Payload(stored=Stored(digest_of(raw), len(raw)))
    assert payloads.json_of(payload) == Raw(raw)
    with pytest.raises(PayloadUnavailable, match="cannot be read from memory://"):
        payloads.json_of(Payload(stored=Stored("b2-00", 7)))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/var/lib/shop", r"is no URL: say file:///var/lib/shop/payloads or s3://bucket/folder"),
        ("file://folder", r"names no folder: say file:///var/lib/shop/payloads, with three slashes"),
        ("file:///", r"names no folder"),
        ("file:///dev/null/folder", r"the folder cannot be made"),
        ("nowhere://bucket", r"payloads='nowhere://bucket'"),
    ],
)
def test_settings_that_cannot_be(url: str, why: str) -> None:
    with pytest.raises(LogError, match=why):
        Engine(App("shop"), log="memory://", payloads=url)


def test_the_setting_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_PAYLOADS", "nonsense")
    with pytest.raises(LogError, match="payloads='nonsense' is no URL"):
        Engine(App("shop"), log="memory://")


async def test_workers_and_gateways_use_it_too(folder: Path, log_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They make their engine's node themselves."""
    monkeypatch.setenv("PERDURE_PAYLOADS", folder.as_uri())
    app = App("shop")
    step = app.step(paint)

    @app.background
    async def flow() -> int:
        return len(await step("huge"))

    async with Pod(app, Role(log_url), 1):
        assert await flow.call() == HUGE
    assert len(list(folder.iterdir())) == 1


def test_a_payload_that_is_too_large_is_bad_data() -> None:
    assert issubclass(PayloadTooLarge, PayloadError)
