"""Many runs cancelled, run again, or started by past events: counted first, done in the background, across restarts.

    POST ──► which runs (kept on a shelf) ──► 100 at a time: commands with ids of (job, run) ──► progress (kept)

Which runs are meant is settled when the job is made. A process that dies has done some of them; the next goes on from
the last hundred, and what it asks for again is the same command, which counts once. Nor does it harm where two believe
for a moment that a job is theirs. A backfill is of events; the run of one event and one function is one.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from perdure.errors import EngineClosed, LogError, PayloadError, PerdureError, UnknownJob
from perdure.history.store import NoHistory
from perdure.sdk.hindsight.asking import Hindsight
from perdure.sdk.hindsight.backfilling import events_for, request_for, routes_of
from perdure.sdk.hindsight.shelf import Shelf
from perdure.sdk.local_port import LocalPort
from perdure.sdk.port import Action, Job, RunFilter, RunSummary

log = logging.getLogger("perdure.jobs")
MOST_RUNS = 100_000
"""Of one job."""
AT_ONCE = 100
AGAIN_S = 1.0
"""After the log did not take a command, or the shelf did not answer."""
LOOK_S = 5.0
"""Between two looks for jobs that another process has left."""
KEPT = 100
"""Jobs that are over, and can be looked at."""
LIVE = ("queued", "running", "suspended", "parked")
_PAGE = 500
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ENCODE = msgspec.json.Encoder().encode
_JOB = msgspec.json.Decoder(Job).decode
_RUNS = msgspec.json.Decoder(list[str]).decode


class Jobs:
    """Those of one app. `shelf`: where they are kept, for this process alone or for several."""

    def __init__(self, hindsight: Hindsight, port: LocalPort, shelf: Shelf) -> None:
        self._hindsight = hindsight
        self._port = port
        self._shelf = shelf
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taking = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Goes on with what was not finished, and with what others leave."""
        self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """What is not finished goes on at the next `open`."""
        tasks = [*self._tasks.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._shelf.close()

    async def listed(self) -> list[Job]:
        """Newest first."""
        found = map(_JOB, await asyncio.to_thread(self._shelf.all))
        return sorted(found, key=lambda job: (job.made_at, job.id), reverse=True)

    async def find(self, job: str) -> Job:
        """Raises `UnknownJob`."""
        found = await asyncio.to_thread(self._shelf.find, job) if _ID.fullmatch(job) else None
        if found is None:
            raise UnknownJob(f"no job {job!r} is known: it never was, or {KEPT} came after it")
        return _JOB(found)

    async def count(self, action: Action, wanted: RunFilter) -> int:
        """How many runs a job would be about. Raises `PayloadError`, `UnknownFunction`."""
        return len(await self._about(action, wanted))

    async def start(self, action: Action, wanted: RunFilter, reason: str = "", job: str = "", rate: float = 0) -> Job:
        """A job of this id (`job`) that was made before is that. Raises `PayloadError`, `UnknownFunction`."""
        if job and not _ID.fullmatch(job):
            raise PayloadError(f"id {job[:40]!r}: letters, digits, '-' and '_', 64 at most")
        if job and (known := await asyncio.to_thread(self._shelf.find, job)) is not None:
            return _JOB(known)
        about = await self._about(action, wanted)
        made = Job(
            job or secrets.token_hex(8),
            action,
            "running",
            len(about),
            int(time.time() * 1000),
            reason=reason,
            function=wanted.function if action == "backfill" else "",
            rate=rate,
        )
        if not await asyncio.to_thread(self._shelf.make, made.id, _ENCODE(made), _ENCODE(about)):
            return await self.find(made.id)
        await self._take(made)
        return made

    async def _about(self, action: Action, wanted: RunFilter) -> list[str]:
        """Ids of runs, or of a backfill's events."""
        if action == "backfill":
            found = await events_for(self._hindsight, wanted, int(time.time() * 1000), MOST_RUNS)
            return _at_most(found, "events")
        return await self._runs(action, wanted)

    async def _runs(self, action: Action, wanted: RunFilter) -> list[str]:
        """All of them before the first is touched, so that pages do not shift below the cursor."""
        _check(action, wanted)
        found: list[str] = []
        cursor = ""
        while True:
            page = await self._hindsight.runs(wanted, _PAGE, cursor)
            found += [run.id for run in page.data if _concerns(action, run)]
            _at_most(found, "runs")
            cursor = page.cursor
            if not cursor:
                return found

    async def _look(self) -> None:
        """For jobs that nobody does."""
        while True:
            with suppress(NoHistory):  # The shelf does not answer: later.
                for job in await self.listed():
                    if job.state == "running":
                        await self._take(job)
            if not self._shelf.shared:
                return
            await asyncio.sleep(LOOK_S)

    async def _take(self, job: Job) -> None:
        """Do it, unless somebody does."""
        async with self._taking:
            if job.id not in self._tasks and await asyncio.to_thread(self._shelf.take, job.id):
                self._tasks[job.id] = asyncio.create_task(self._do(job.id))

    async def _do(self, name: str) -> None:
        try:
            # As far as whoever did it before has come.
            job = _JOB(await self._kept(name))
            runs = _RUNS(await asyncio.to_thread(self._shelf.runs, name))
            await self._ask_for(job, runs)
            await asyncio.to_thread(self._shelf.leave, name)
            await self._forget_some()
        except NoHistory as error:
            log.warning("job %s is left until its shelf answers: %s", name, error)
        finally:
            del self._tasks[name]

    async def _kept(self, name: str) -> bytes:
        found = await asyncio.to_thread(self._shelf.find, name)
        if found is None:
            raise NoHistory(f"job {name} is gone")
        return found

    async def _ask_for(self, job: Job, about: Sequence[str]) -> None:
        at_once = max(1, min(AT_ONCE, int(job.rate / 2))) if job.rate else AT_ONCE
        while job.done < job.count:
            some = about[job.done : job.done + at_once]
            errors = await asyncio.gather(*(self._one(job, one) for one in some))
            stuck = next((error for error in errors if isinstance(error, LogError | EngineClosed | NoHistory)), None)
            if stuck is not None:
                log.warning("job %s waits for the log, or for history: %s", job.id, stuck)
                await asyncio.sleep(AGAIN_S)
                continue
            vain = [str(error) for error in errors if error is not None]
            done, failed = job.done + len(some), job.failed + len(vain)
            job = replace(job, done=done, failed=failed, error=job.error or next(iter(vain), ""))
            await self._keep(job)
            if job.rate:
                await asyncio.sleep(len(some) / job.rate)
        await self._keep(replace(job, state="finished"))

    async def _one(self, job: Job, about: str) -> PerdureError | None:
        """Why it was in vain; None if it was not."""
        command = f"job/{job.id}/{about}"
        try:
            if job.action == "cancel":
                await self._port.cancel(about, job.reason, command)
            elif job.action == "rerun":
                await self._port.rerun(about, command)
            else:
                await self._backfill(job.function, about, command)
        except PerdureError as error:
            return error
        return None

    async def _backfill(self, function: str, event: str, command: str) -> None:
        routes = await routes_of(self._hindsight, function)
        request = await request_for(self._hindsight, routes, function, event, command)
        if request is not None:
            await self._port.backfill(request)

    async def _keep(self, job: Job) -> None:
        await asyncio.to_thread(self._shelf.keep, job.id, _ENCODE(job), job.done, finished=job.state == "finished")

    async def _forget_some(self) -> None:
        over = [job.id for job in await self.listed() if job.state == "finished"]
        await asyncio.to_thread(self._shelf.forget, over[KEPT:])


def _at_most(found: list[str], what: str) -> list[str]:
    if len(found) > MOST_RUNS:
        raise PayloadError(f"more than {MOST_RUNS:,} {what} fit: say which by since, until or function")
    return found


def _check(action: Action, wanted: RunFilter) -> None:
    """Nobody cancels everything by a forgotten field."""
    if wanted == RunFilter():
        raise PayloadError("which runs? give at least one of " + ", ".join(RunFilter.__struct_fields__))
    over = wanted.status not in ("", *LIVE)
    if action == "cancel" and over:
        raise PayloadError(f"runs that are {wanted.status} are over: cancel those that are {', '.join(LIVE)}")
    if action == "rerun" and wanted.status and not over:
        raise PayloadError(f"runs that are {wanted.status} are not over: run those again that are")


def _concerns(action: Action, run: RunSummary) -> bool:
    return (run.status in LIVE) == (action == "cancel")
