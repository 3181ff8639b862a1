"""Many runs cancelled, or run again: counted first, then done in the background, across restarts.

    POST ──► which runs (kept in a file) ──► 100 at a time: commands with ids of (job, run) ──► progress (kept)

Which runs are meant is settled when the job is made. A process that dies has done some of them; the next goes on from
the last hundred, and what it asks for again is the same command, which counts once.
"""

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from perdure.errors import EngineClosed, LogError, PayloadError, PerdureError, UnknownJob
from perdure.sdk.hindsight.asking import Hindsight
from perdure.sdk.local_port import LocalPort
from perdure.sdk.port import Action, Job, RunFilter, RunSummary

log = logging.getLogger("perdure.jobs")
MOST_RUNS = 100_000
"""Of one job."""
AT_ONCE = 100
AGAIN_S = 1.0
"""After the log did not take a command."""
KEPT = 100
"""Jobs that are over, and can be looked at."""
LIVE = ("queued", "running", "suspended", "parked")
_PAGE = 500
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Jobs:
    """Those of one app. `folder`: where they are kept."""

    def __init__(self, hindsight: Hindsight, port: LocalPort, folder: Path) -> None:
        self._hindsight = hindsight
        self._port = port
        self._folder = folder
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Goes on with what was not finished."""
        found = [msgspec.json.decode(path.read_bytes(), type=Job) for path in self._folder.glob("*.job")]
        for job in sorted(found, key=lambda job: (job.made_at, job.id)):
            self._jobs[job.id] = job
            if job.state == "running":
                self._begin(job, msgspec.json.decode(self._runs_file(job.id).read_bytes(), type=list[str]))

    async def close(self) -> None:
        """What is not finished goes on at the next `open`."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def listed(self) -> list[Job]:
        """Newest first."""
        return [*reversed(self._jobs.values())]

    def find(self, job: str) -> Job:
        """Raises `UnknownJob`."""
        found = self._jobs.get(job)
        if found is None:
            raise UnknownJob(f"no job {job!r} is known: it never was, or {KEPT} came after it")
        return found

    async def count(self, action: Action, wanted: RunFilter) -> int:
        """How many runs a job would be about. Raises `PayloadError`."""
        return len(await self._runs(action, wanted))

    async def start(self, action: Action, wanted: RunFilter, reason: str = "", job: str = "") -> Job:
        """A job of this id (`job`) that was made before is that. Raises `PayloadError`."""
        if job and not _ID.fullmatch(job):
            raise PayloadError(f"id {job[:40]!r}: letters, digits, '-' and '_', 64 at most")
        if job in self._jobs:
            return self._jobs[job]
        runs = await self._runs(action, wanted)
        made = Job(job or secrets.token_hex(8), action, "running", len(runs), int(time.time() * 1000), reason=reason)
        if made.id in self._jobs:
            return self._jobs[made.id]
        self._jobs[made.id] = made
        await asyncio.to_thread(self._make, made, runs)
        self._begin(made, runs)
        return made

    async def _runs(self, action: Action, wanted: RunFilter) -> list[str]:
        """All of them before the first is touched, so that pages do not shift below the cursor."""
        _check(action, wanted)
        found: list[str] = []
        cursor = ""
        while True:
            page = await self._hindsight.runs(wanted, _PAGE, cursor)
            found += [run.id for run in page.data if _concerns(action, run)]
            if len(found) > MOST_RUNS:
                raise PayloadError(f"more than {MOST_RUNS:,} runs fit: say which by since, until or function")
            cursor = page.cursor
            if not cursor:
                return found

    def _begin(self, job: Job, runs: Sequence[str]) -> None:
        self._tasks[job.id] = asyncio.create_task(self._do(job, runs))

    async def _do(self, job: Job, runs: Sequence[str]) -> None:
        while job.done < job.count:
            some = runs[job.done : job.done + AT_ONCE]
            errors = await asyncio.gather(*(self._one(job, run) for run in some))
            stuck = next((error for error in errors if isinstance(error, LogError | EngineClosed)), None)
            if stuck is not None:
                log.warning("job %s waits for the log: %s", job.id, stuck)
                await asyncio.sleep(AGAIN_S)
                continue
            vain = [str(error) for error in errors if error is not None]
            done, failed = job.done + len(some), job.failed + len(vain)
            job = replace(job, done=done, failed=failed, error=job.error or next(iter(vain), ""))
            await self._keep(job)
        await self._keep(replace(job, state="finished"))
        del self._tasks[job.id]
        self._forget_some()

    async def _one(self, job: Job, run: str) -> PerdureError | None:
        """Why it was in vain; None if it was not."""
        command = f"job/{job.id}/{run}"
        try:
            if job.action == "cancel":
                await self._port.cancel(run, job.reason, command)
            else:
                await self._port.rerun(run, command)
        except PerdureError as error:
            return error
        return None

    # Files

    def _make(self, job: Job, runs: Sequence[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._runs_file(job.id), msgspec.json.encode(runs))
        _write(self._job_file(job.id), msgspec.json.encode(job))

    async def _keep(self, job: Job) -> None:
        self._jobs[job.id] = job
        await asyncio.to_thread(_write, self._job_file(job.id), msgspec.json.encode(job))

    def _forget_some(self) -> None:
        over = [job.id for job in self._jobs.values() if job.state == "finished"]
        for job in over[:-KEPT]:
            del self._jobs[job]
            self._job_file(job).unlink(missing_ok=True)
            self._runs_file(job).unlink(missing_ok=True)

    def _job_file(self, job: str) -> Path:
        return self._folder / f"{job}.job"

    def _runs_file(self, job: str) -> Path:
        return self._folder / f"{job}.runs"


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


def _write(path: Path, content: bytes) -> None:
    """Whole, or as it was."""
    making = path.with_name(path.name + ".making")
    with making.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    making.replace(path)
