"""`perdure worker` and `perdure gateway` of one app as processes, on a broker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.engine_process import EngineProcess

Start = Callable[..., EngineProcess]


@contextmanager
def roles(folder: Path, url: str) -> Iterator[Start]:
    """`start("worker", …)` of the `shop:app` in `folder`; several are told apart by their number. All end with this."""
    started: list[EngineProcess] = []

    def start(role: str, *args: str, log: str = url) -> EngineProcess:
        number = len(started)
        place = () if role == "gateway" else ("--data", f"data{number}")
        option = "--port" if role == "gateway" else "--health-port"
        args = (role, "shop:app", "--log", log, *place, *args)
        engine = EngineProcess(folder, *args, port_option=option, output=f"output{number}.txt")
        started.append(engine)
        engine.start()
        return engine

    try:
        yield start
    finally:
        for engine in started:
            engine.end()
