"""A browser with the dashboard open, as the engine sees it: `python -m benchmarks.viewer URL`.

Told `look` on its standard input it listens to what changes and loads the overview and the list of runs each second;
told `rest` it closes the tab.
"""

import asyncio
import sys

import aiohttp

_PAGES = ("/v1/overview?since=1h", "/v1/runs?limit=50")


async def look(session: aiohttp.ClientSession) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_listen(session))
        while True:
            for page in _PAGES:
                async with session.get(page) as answer:
                    answer.raise_for_status()
                    await answer.read()
            await asyncio.sleep(1)


async def _listen(session: aiohttp.ClientSession) -> None:
    async with session.get("/v1/live", timeout=aiohttp.ClientTimeout(total=None)) as answer:
        answer.raise_for_status()
        async for _ in answer.content.iter_any():
            pass


async def main(url: str) -> None:
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(url) as session:
        looking: asyncio.Task[None] | None = None
        while order := await loop.run_in_executor(None, sys.stdin.readline):
            if looking is not None:
                if looking.done():
                    looking.result()
                looking.cancel()
            looking = asyncio.create_task(look(session)) if order == "look\n" else None
            print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
