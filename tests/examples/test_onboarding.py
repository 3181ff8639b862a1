"""The onboarding, through its web endpoints and by the virtual clock."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from httpx import ASGITransport, AsyncClient

import examples.onboarding as example
from examples.onboarding import Signup, app, check_company, create_workspace, invite, onboard, start_trial, web
from perdure.testing import TestEngine

ADA = {"email": "ada@x.org", "company": "acme", "team": ["bob@x.org", "cleo@x.org"]}


@dataclass
class Service:
    """The web service with the test engine under it."""

    engine: TestEngine
    http: AsyncClient

    async def sign_up(self, user: Mapping[str, object]) -> str:
        """Posts the form; the run's id."""
        answer = await self.http.post("/signup", json=user)
        assert answer.status_code == 202
        await self.engine.advance("0s")
        return str(answer.json()["run_id"])

    async def page(self, email: str = "ada@x.org") -> str:
        """What the user sees."""
        return str((await self.http.get(f"/users/{email}")).json()["status"])

    async def status(self, run_id: str) -> str:
        """How the run is doing."""
        return str((await self.http.get(f"/runs/{run_id}")).json()["status"])


@asynccontextmanager
async def service(evict: bool = False) -> AsyncGenerator[Service]:
    """An `Engine` that is opened inside a `TestEngine` of its app is the test engine: the lifespan works as it is."""
    async with (
        TestEngine(app, evict=evict) as engine,
        web.router.lifespan_context(web),
        AsyncClient(transport=ASGITransport(web), base_url="http://test") as http,
    ):
        yield Service(engine, http)


def mails() -> list[tuple[str, str]]:
    """Who got what, in order."""
    return example.db.execute("SELECT recipient, text FROM outbox ORDER BY rowid").fetchall()


@pytest.mark.parametrize("evict", [False, True])
async def test_a_sign_up_from_the_form_to_the_next_day(evict: bool) -> None:
    async with service(evict) as web:
        run_id = await web.sign_up(ADA)
        assert await web.page() == "ready, 2 invited"
        assert await web.status(run_id) not in {"completed", "failed"}
        assert ("ada@x.org", "How was your first day?") not in mails()
        await web.engine.advance("23h")
        assert ("ada@x.org", "How was your first day?") not in mails()
        await web.engine.advance("1h")
        assert mails()[-1] == ("ada@x.org", "How was your first day?")
        assert await web.status(run_id) == "completed"
        run = web.engine.run(onboard)
        assert run.output.invited == 2
        assert run.output.problems == []
        assert run.output.workspace.owner == "ada@x.org"
        assert sorted(recipient for recipient, text in mails() if "invites" in text) == ["bob@x.org", "cleo@x.org"]
        assert len(web.engine.all_runs(invite)) == 2


async def test_an_error_of_one_of_the_three_is_seen_and_survived() -> None:
    async with service() as web:
        await web.sign_up(ADA | {"company": "unknown", "team": []})
        assert web.engine.run(check_company).status == "failed"
        assert web.engine.run(create_workspace).status == "completed"
        assert web.engine.run(start_trial).status == "completed"
        await web.engine.finish()
        run = web.engine.run(onboard)
        assert run.status == "completed"
        (problem,) = run.output.problems
        assert "unknown" in problem


async def test_without_a_workspace_the_onboarding_fails_and_says_so() -> None:
    async def full(user: Signup) -> example.Workspace:
        raise RuntimeError("no room left")

    async with service() as web:
        web.engine.fake(create_workspace, full)
        run_id = await web.sign_up(ADA)
        await web.engine.finish()
        assert await web.status(run_id) == "failed"
        assert "no room left" in str(web.engine.run(onboard).error)
        assert await web.page() == "onboarding failed"


async def test_the_form_sent_twice_starts_one_run() -> None:
    async with service() as web:
        assert await web.sign_up(ADA) == await web.sign_up(ADA)
        assert len(web.engine.all_runs(onboard)) == 1


async def test_cancel_takes_the_workspace_away_and_sends_no_more_mail() -> None:
    async with service() as web:
        run_id = await web.sign_up(ADA)
        assert (await web.http.post(f"/runs/{run_id}/cancel")).status_code == 202
        await web.engine.finish()
        assert await web.status(run_id) == "cancelled"
        assert await web.page() == "onboarding cancelled"
        assert example.db.execute("SELECT * FROM workspaces").fetchall() == []
        assert ("ada@x.org", "How was your first day?") not in mails()


async def test_a_rerun_is_a_run_of_its_own() -> None:
    async with service() as web:
        first = await web.sign_up(ADA)
        await web.http.post(f"/runs/{first}/cancel")
        await web.engine.advance("1h")
        second = str((await web.http.post(f"/runs/{first}/rerun")).json()["run_id"])
        assert second != first
        await web.engine.finish()
        assert await web.status(first) == "cancelled"
        assert await web.status(second) == "completed"
        assert [text for _, text in mails()].count("How was your first day?") == 1


async def test_who_is_not_known() -> None:
    async with service() as web:
        assert (await web.http.get("/users/nobody@x.org")).status_code == 404
        assert (await web.http.get("/runs/never-was")).status_code == 404
        assert (await web.http.post("/signup", json={"company": "acme"})).status_code == 422


async def test_a_crash_of_the_server_loses_nothing() -> None:
    async with service() as web:
        await web.sign_up(ADA)
        before = mails()
        await web.engine.crash()
        assert mails() == before
        await web.engine.finish()
        assert web.engine.run(onboard).status == "completed"
        assert mails() == [*before, ("ada@x.org", "How was your first day?")]
