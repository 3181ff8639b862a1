"""Forks: of a run that this engine has, from an op on; and of any, by parts of its history."""

import asyncio

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PayloadError
from perdure.past.file import tape_of
from perdure.past.fork import Change, Trigger, before_its_end, parts_of
from perdure.past.tape import state_of_run
from perdure.sdk.event_input import new_event_id
from perdure.sdk.json_guard import compact
from perdure.sdk.port import ForkAsk
from perdure_connectors.http.answers import port_of
from perdure_connectors.http.body import fitting, json_body
from perdure_connectors.http.queries import only
from perdure_connectors.http.runs import created


class From(Struct, forbid_unknown_fields=True):
    """The body: where the fork leaves its run, and what is another there (one of four) or at its beginning."""

    at: str
    """An op, or its name where there is one of it."""
    result: Raw | UnsetType = UNSET
    error: str = ""
    taken: Raw | UnsetType = UNSET
    """Data of the event that a wait takes."""
    timeout: bool = False
    event: Raw | UnsetType = UNSET
    """Data of the event that the run starts with."""
    arguments: Raw | UnsetType = UNSET
    """`[[positional…], {keyword: …}]`."""
    recorded: bool = False
    """What follows is as it was, as long as the code asks for the same."""
    key: str = ""
    """Asked for again with the same one, it is the same run."""


_PART = msgspec.json.Decoder(ForkAsk)
_FROM = msgspec.json.Decoder(From)


async def part(request: Request) -> Response:
    """201 with the id of the new run, once this part of its history is durable; it starts with the last one."""
    only(request)
    return created(request, await port_of(request).fork(fitting(_PART, await json_body(request))))


async def fork(request: Request) -> Response:
    """201 with the id of the new run, which has the history of this one up to the op, and is live from there."""
    only(request)
    asked, port, run_id = fitting(_FROM, await json_body(request)), port_of(request), request.path_params["run_id"]
    told = await port.tape(run_id)
    parts = await asyncio.to_thread(_parts, told, run_id, asked)
    return created(request, [await port.fork(one) for one in parts][-1])


def _parts(told: bytes, run_id: str, asked: From) -> list[ForkAsk]:
    changes = (asked.result is not UNSET, bool(asked.error), asked.taken is not UNSET, asked.timeout)
    if sum(changes) > 1:
        raise PayloadError("'result', 'error', 'taken', 'timeout': an op brings one of them")
    change = Change(_given(asked.result), asked.error, _given(asked.taken), asked.timeout) if any(changes) else None
    view = before_its_end(tape_of(told.splitlines(keepends=True), f"run {run_id}"), run_id)
    return parts_of(
        view,
        state_of_run(view, run_id),
        asked.at,
        asked.key or new_event_id(),
        change=change,
        trigger=Trigger(_given(asked.event), _given(asked.arguments)),
        recorded=asked.recorded,
        same_log=True,
    )


def _given(raw: Raw | UnsetType) -> Raw | None:
    return None if isinstance(raw, UnsetType) else compact(raw)
