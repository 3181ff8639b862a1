"""Many runs cancelled, run again, or started by past events, in the background."""

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import KeepsNothing, PayloadError
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.port import Action, Job, RunFilter
from perdure_connectors.http.answers import NO_HISTORY, json_answer
from perdure_connectors.http.body import fitting, json_body
from perdure_connectors.http.queries import check_status, only


class Asked(Struct, forbid_unknown_fields=True):
    """What to do, and with which runs: all that is given must hold, at least one is needed. Times are milliseconds.

    `backfill`: `function` gets the events since `since`, until `until`, that it has a trigger for and no run of;
    `where` speaks of the event, and `rate` is how many a second at most.

    `id`: a job of this id that was made before is answered, and no other is made. `dry_run`: only count.
    """

    action: Action
    function: str = ""
    status: str = ""
    event_id: str = ""
    since: int | None = None
    until: int | None = None
    metadata: dict[str, str] = {}
    where: str = ""
    reason: str = ""
    id: str = ""
    rate: float = 0
    dry_run: bool = False


class JobList(Struct):
    """Jobs, newest first; of those that are over the last hundred."""

    data: list[Job]
    cursor: str


_DECODER = msgspec.json.Decoder(Asked)


async def create(request: Request) -> Response:
    """202 with how many runs it is about: they are settled now, and cancelled, run again or started in the background.

    It goes on after a restart; a run that is asked for twice is cancelled, run again or started once. 100,000 at most.
    """
    only(request)
    jobs = _jobs(request)
    asked = _read(await json_body(request))
    wanted = RunFilter(
        asked.function,
        check_status(asked.status),
        asked.event_id,
        asked.since,
        asked.until,
        asked.metadata,
        asked.where,
    )
    if asked.dry_run:
        return json_answer(Job("", asked.action, "counted", await jobs.count(asked.action, wanted)))
    return json_answer(await jobs.start(asked.action, wanted, asked.reason[:1000], asked.id, asked.rate), 202)


async def listing(request: Request) -> Response:
    """Bulk jobs, newest first."""
    only(request)
    return json_answer(JobList(await _jobs(request).listed(), ""))


async def show(request: Request) -> Response:
    """How far a job is."""
    only(request)
    return json_answer(await _jobs(request).find(request.path_params["job_id"]))


def _jobs(request: Request) -> Jobs:
    jobs: Jobs | None = request.app.state.jobs
    if jobs is None:
        raise KeepsNothing(f"which runs a job is about is asked of history: {NO_HISTORY}")
    return jobs


def _read(body: bytes) -> Asked:
    asked = fitting(_DECODER, body)
    for name in ("since", "until"):
        at = getattr(asked, name)
        if at is not None and not 0 <= at < 1 << 53:
            raise PayloadError(f"{name}={at}: milliseconds since the epoch are needed")
    if not 0 <= asked.rate < 1e6 or (asked.rate and asked.action != "backfill"):
        raise PayloadError(f"rate={asked.rate:g}: how many a second a backfill may start; 0 for no limit")
    return asked
