"""Runs: listed, shown, awaited, cancelled, run again, unparked."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from perdure.past.file import tape_of
from perdure.past.records import records_of
from perdure.sdk.port import RunOutcome
from perdure_connectors.http import shapes
from perdure_connectors.http.answers import UNCACHED, hindsight_of, json_answer, port_of
from perdure_connectors.http.queries import check_level, duration_ms, limit_of, only, page_of

POLL_MS = 20_000
LONGEST_POLL_MS = 60_000
"""What proxies between let pass. A longer `timeout` is answered after this, with 202 like any other that has passed."""


async def listing(request: Request) -> Response:
    """Newest first, of all that fit the filters that are given.

    What was acknowledged before is in it, but for the records that it says it is `behind`. `since` and `until` go by
    when runs were requested. These, `metadata` and `where` are asked of history: 501 where the engine keeps none.
    """
    return json_answer(await page_of(request))


async def show(request: Request) -> Response:
    """The run with its trigger, ops, result; with history also its moments, children, reruns, and why it waits."""
    only(request)
    hindsight, run_id = hindsight_of(request), request.path_params["run_id"]
    return json_answer(await (port_of(request) if hindsight is None else hindsight).run(run_id))


async def cancel(request: Request) -> Response:
    """202: the cancel is durable, and the run will not complete. A run that has ended stays as it is."""
    only(request, "reason")
    port, run_id = port_of(request), request.path_params["run_id"]
    await port.status(run_id)  # Refuses an unknown run; `cancel` itself would keep the cancel for a run to come.
    await port.cancel(run_id, request.query_params.get("reason", "")[:1000])
    return json_answer({"run_id": run_id}, 202)


async def lines(request: Request) -> Response:
    """What the run logged, oldest first: `?level=&limit=&cursor=`. The cursor goes on, also after the end."""
    only(request, "level", "limit", "cursor")
    query = request.query_params
    page = await port_of(request).lines(
        request.path_params["run_id"],
        level=check_level(query.get("level", "debug")),
        limit=limit_of(query.get("limit")),
        cursor=query.get("cursor", ""),
    )
    return json_answer(page)


async def tape(request: Request) -> Response:
    """The run's records and what decided about it, a JSON object a line: what `perdure replay` runs again."""
    only(request)
    told = await port_of(request).tape(request.path_params["run_id"])
    return Response(told, headers=UNCACHED, media_type="application/x-ndjson")


async def records(request: Request) -> Response:
    """The run's records in log order, each with what it did, in words, and how the run and its op were after it."""
    only(request)
    run_id = request.path_params["run_id"]
    told = await port_of(request).tape(run_id)
    return json_answer(await asyncio.to_thread(_told, told, run_id))


def _told(lines: bytes, run_id: str) -> shapes.Records:
    return shapes.Records(records_of(tape_of(lines.splitlines(keepends=True), f"run {run_id}"), run_id), "")


async def rerun(request: Request) -> Response:
    """201 with the id of the new run."""
    only(request)
    run_id = await port_of(request).rerun(request.path_params["run_id"])
    return created(request, run_id)


async def unpark(request: Request) -> Response:
    """202: durable; the run tries to go on, and is parked again if its code still asks for something else."""
    only(request)
    run_id = request.path_params["run_id"]
    await port_of(request).unpark(run_id)
    return json_answer({"run_id": run_id}, 202)


async def result(request: Request) -> Response:
    """Long poll, `?timeout=20s`. 200 with the outcome, whatever it is; 202 with the status so far: ask again."""
    only(request, "timeout")
    run_id = request.path_params["run_id"]
    timeout = duration_ms(request.query_params.get("timeout", f"{POLL_MS}ms"), "timeout")
    port = port_of(request)
    outcome = await _until_closing(request, run_id, min(timeout, LONGEST_POLL_MS))
    if outcome is None:
        return json_answer(RunOutcome(run_id, await port.status(run_id)), 202)
    return json_answer(outcome)


def created(request: Request, run_id: str) -> Response:
    """201 with the place where the run can be seen."""
    location = f"{request.scope.get('root_path', '')}/v1/runs/{run_id}"
    return json_answer({"run_id": run_id}, 201, {"location": location})


async def _until_closing(request: Request, run_id: str, timeout_ms: int) -> RunOutcome | None:
    """None when time is up, the server is about to stop, or nobody waits for the answer any more."""
    awaited = asyncio.ensure_future(port_of(request).result(run_id, timeout_ms))
    others = [asyncio.ensure_future(request.app.state.closing.wait()), asyncio.ensure_future(_gone(request))]
    try:
        await asyncio.wait([awaited, *others], return_when=asyncio.FIRST_COMPLETED)
        return awaited.result() if awaited.done() else None
    except TimeoutError:
        return None
    finally:
        for task in (awaited, *others):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
