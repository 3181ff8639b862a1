"""Sign-up in a FastAPI service: the request answers at once, and a background function does the rest for a day.

The function runs three others side by side and sees each one's result or error, tells the user how far it is, invites
her team by child functions, and writes again after a day. It survives restarts of the web server: run it, post a
sign-up, kill it, run it again.

    pip install perdure fastapi uvicorn
    python examples/onboarding.py [FOLDER]               serves on 127.0.0.1:8000, keeps everything in FOLDER
    curl -X POST localhost:8000/signup --json '{"email": "ada@x.org", "company": "acme", "team": ["bob@x.org"]}'
    curl localhost:8000/users/ada@x.org                  what she sees
    curl localhost:8000/runs/RUN_ID                      how the run is doing
    curl -X POST localhost:8000/runs/RUN_ID/cancel       stops it, and takes the workspace away again
    curl -X POST localhost:8000/runs/RUN_ID/rerun        once more from the start, as a run of its own
"""

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from perdure import App, Context, Ended, Engine, NonRetriable, UnknownRun, current_step

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (email TEXT PRIMARY KEY, status TEXT);
CREATE TABLE IF NOT EXISTS workspaces (id TEXT PRIMARY KEY, owner TEXT);
CREATE TABLE IF NOT EXISTS outbox (key TEXT PRIMARY KEY, recipient TEXT, text TEXT);
"""

db: sqlite3.Connection


def folder() -> Path:
    """Where the log and the database are."""
    path = Path(os.environ.get("ONBOARDING_DATA", "onboarding-data")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


@asynccontextmanager
async def database() -> AsyncGenerator[None]:
    """Opens the database once in each process that runs steps."""
    global db
    db = sqlite3.connect(folder() / "users.db", isolation_level=None)
    db.executescript(SCHEMA)
    try:
        yield
    finally:
        db.close()


app = App("onboarding", lifespan=database)


class Signup(BaseModel):
    """What the form sends."""

    email: str
    company: str
    team: list[str] = []


class Workspace(BaseModel):
    """A place of her own."""

    id: str
    owner: str


class Trial(BaseModel):
    """For how long she may try."""

    ends: datetime


class Onboarded(BaseModel):
    """What came of it."""

    workspace: Workspace
    problems: list[str]
    invited: int


class UnknownCompany(NonRetriable):
    """The register does not list it, and will not by asking again."""


@app.step
async def tell(email: str, status: str) -> str:
    """What the user sees on her page while she waits."""
    db.execute("INSERT OR REPLACE INTO users VALUES (?, ?)", (email, status))
    return email


@app.step
async def mail(email: str, text: str) -> None:
    """Stands for a mail service that takes a key, as good ones do."""
    db.execute("INSERT INTO outbox VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (current_step().key, email, text))


@app.step
async def add_workspace(owner: str) -> Workspace:
    """A second attempt finds what the first one made: its id comes from the key of the step."""
    workspace = Workspace(id=current_step().key, owner=owner)
    db.execute("INSERT INTO workspaces VALUES (?, ?) ON CONFLICT DO NOTHING", (workspace.id, owner))
    return workspace


@app.step
async def remove_workspace(workspace: Workspace) -> None:
    """Undoes `add_workspace`."""
    db.execute("DELETE FROM workspaces WHERE id = ?", (workspace.id,))


@app.step
async def look_up(company: str) -> int:
    """Stands for a register of companies: how many people work there."""
    if company == "unknown":
        raise UnknownCompany(company)
    return 10 * len(company)


@app.background
async def create_workspace(user: Signup) -> Workspace:
    """The first of the three."""
    return await add_workspace(user.email)


@app.background
async def start_trial(ctx: Context, user: Signup) -> Trial:
    """The second: the time that a run sees is the log's, the same on each replay."""
    trial = Trial(ends=ctx.now() + timedelta(days=14))
    await mail(user.email, f"Your trial ends on {trial.ends:%d %B}")
    return trial


@app.background
async def check_company(user: Signup) -> int:
    """The third: it may fail, and the onboarding goes on without it."""
    return await look_up(user.company)


@app.background
async def invite(email: str, workspace: Workspace) -> None:
    """A child for each member of the team."""
    await mail(email, f"{workspace.owner} invites you")


async def clean_up(ctx: Context, ended: Ended) -> None:
    """Runs when an onboarding was cancelled or has failed."""
    if workspace := ended.result(create_workspace):
        await remove_workspace(workspace)
    if email := ended.result(tell):
        await tell(email, f"onboarding {ended.status}")


@app.background(on_cancel=clean_up, on_failure=clean_up)
async def onboard(ctx: Context, user: Signup) -> Onboarded:
    """The whole of it, from the form to the mail of the next day."""
    await tell(user.email, "setting up")
    workspace, trial, size = await asyncio.gather(
        create_workspace.call(user), start_trial.call(user), check_company.call(user), return_exceptions=True
    )
    if isinstance(workspace, BaseException):
        raise workspace  # nothing works without it
    problems = [str(outcome) for outcome in (trial, size) if isinstance(outcome, BaseException)]
    await tell(user.email, "workspace ready" + (f", but: {'; '.join(problems)}" if problems else ""))

    for colleague in user.team:
        await invite.call(colleague, workspace)
    await tell(user.email, f"ready, {len(user.team)} invited")
    await mail(user.email, "Welcome!")

    await ctx.sleep("1 day")
    await mail(user.email, "How was your first day?")
    return Onboarded(workspace=workspace, problems=problems, invited=len(user.team))


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncGenerator[None]:
    """The engine lives as long as the web server, in the same process."""
    async with Engine(app, log=f"embedded://{folder()}/log"):
        yield


web = FastAPI(title="Onboarding", lifespan=lifespan)


@web.post("/signup", status_code=202)
async def signup(user: Signup) -> dict[str, str]:
    """Once this has answered, the onboarding happens. A form that is sent twice starts it once."""
    run = await onboard.options(idempotency_key=user.email).enqueue(user)
    return {"run_id": run.id}


@web.get("/users/{email}")
async def user_status(email: str) -> dict[str, str]:
    """What the user sees."""
    for (status,) in db.execute("SELECT status FROM users WHERE email = ?", (email,)):
        return {"status": status}
    raise HTTPException(404, "no such user")


@web.get("/runs/{run_id}")
async def run_status(run_id: str) -> dict[str, str]:
    """queued, running, suspended, completed, failed or cancelled."""
    return {"status": await onboard.handle(run_id).status()}


@web.post("/runs/{run_id}/cancel", status_code=202)
async def cancel(run_id: str) -> dict[str, str]:
    """Stops the run; `clean_up` does the rest."""
    await onboard.handle(run_id).cancel(reason="asked for by the user")
    return {"run_id": run_id}


@web.post("/runs/{run_id}/rerun", status_code=202)
async def rerun(run_id: str) -> dict[str, str]:
    """The same sign-up as a new run."""
    run = await onboard.handle(run_id).rerun()
    return {"run_id": run.id}


@web.exception_handler(UnknownRun)
async def unknown_run(request: Request, error: Exception) -> JSONResponse:
    """Any endpoint may be asked for a run that never was."""
    return JSONResponse({"detail": str(error)}, status_code=404)


if __name__ == "__main__":
    if sys.argv[1:]:
        os.environ["ONBOARDING_DATA"] = sys.argv[1]
    uvicorn.run(web, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
