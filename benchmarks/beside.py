"""The engine with and without a history and an open dashboard beside it, in turns within one process."""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from benchmarks.measure import Meter, Result, bounded
from benchmarks.programs import app, steps
from benchmarks.saturated import STEPS
from perdure import Engine
from perdure.cli.running import close_gateway, server_of
from perdure.history.projector import Projector
from perdure.history.sqlite import FILE, SqliteHistory
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.local_port import LocalPort
from perdure_connectors.http import gateway

Order = Callable[[str], Awaitable[None]]


async def history(folder: Path, *, runs: int, in_flight: int, pairs: int) -> Result:
    """`steps10`; what one half has left unread, the next with a history may read."""
    reads = False
    async with Engine(app, log=f"embedded://{folder}/log") as engine:
        projector = Projector(engine.nodes[0].log, SqliteHistory(folder / FILE), owned=lambda partition: reads)
        await projector.open()
        reading = asyncio.create_task(projector.run())
        found: dict[bool, list[Result]] = {False: [], True: []}
        async with _dashboard(engine, projector) as order:
            await bounded(range(2 * in_flight), in_flight, lambda _: steps.call(STEPS))
            for number in range(pairs):
                for reads in (False, True) if number % 2 else (True, False):
                    await order("look" if reads else "rest")
                    await asyncio.sleep(
                        0.3
                    )  # a slice that was begun comes to its end; a look at the log begins the next
                    meter = Meter()
                    await bounded(range(runs), in_flight, lambda _: steps.call(STEPS))
                    found[reads].append(meter.per(runs * STEPS, "step"))
        projector.stop()
        await reading
        await projector.close()
    ratios = [beside["steps_s"] / alone["steps_s"] for alone, beside in zip(found[False], found[True], strict=True)]
    return {
        "alone_steps_s": median(one["steps_s"] for one in found[False]),
        "beside_steps_s": median(one["steps_s"] for one in found[True]),
        "beside_over_alone": round(median(ratios), 3),
        "pairs": [round(ratio, 3) for ratio in sorted(ratios)],
    }


@asynccontextmanager
async def _dashboard(engine: Engine, projector: Projector) -> AsyncGenerator[Order]:
    """The gateway, as `perdure serve` has it; and a browser, which `look`s or `rest`s."""
    port = engine.port_of(app.name)
    assert isinstance(port, LocalPort)
    asgi = gateway(engine.late, app.name, hindsight=Hindsight(port, projector.store, projector))
    server = server_of(asgi)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with _browser(f"http://127.0.0.1:{listener.getsockname()[1]}") as order:
            yield order
        close_gateway(asgi)
        server.should_exit = True
        await serving


@asynccontextmanager
async def _browser(url: str) -> AsyncGenerator[Order]:
    pipe = asyncio.subprocess.PIPE
    browser = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.viewer", url, stdin=pipe, stdout=pipe
    )
    given, told = browser.stdin, browser.stdout
    assert given is not None
    assert told is not None

    async def order(what: str) -> None:
        given.write(f"{what}\n".encode())
        assert await told.readline() == b"done\n", "the browser is gone"

    yield order
    given.close()
    await browser.wait()
