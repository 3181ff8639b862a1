"""The daily digest: fires at 08:00 UTC, one run per user, each on its own."""

from datetime import UTC, datetime

from examples.digest import USERS, app, morning, send_digest, send_mail
from perdure.testing import TestEngine

EVENING = datetime(2030, 1, 1, 20, tzinfo=UTC)


async def test_one_run_per_user_at_eight() -> None:
    mails: list[str] = []

    def mail(email: str, subject: str, lines: list[str]) -> None:
        mails.append(f"{email}: {subject}: {len(lines)}")

    async with TestEngine(app, start=EVENING) as engine:
        engine.fake(send_mail, mail)
        await engine.advance("11h59m")
        assert engine.all_runs(morning) == []
        await engine.advance("1m")
        assert engine.run(morning).output == len(USERS)
        assert sorted(run.output for run in engine.all_runs(send_digest)) == [0, 1, 3]
        assert sorted(mails) == ["ada@x.org: Your digest of 2030-01-02: 1", "bob@x.org: Your digest of 2030-01-02: 3"]


async def test_every_morning_again() -> None:
    async with TestEngine(app, start=EVENING) as engine:
        seen: set[str] = set()
        for _ in range(3):
            await engine.advance("1d")
            seen.update(run.id for run in engine.all_runs(send_digest))
        assert len(seen) == 3 * len(USERS)


async def test_one_users_trouble_is_hers_alone() -> None:
    """Her mail is asked for nine times and fails; the others have theirs."""

    def mail(email: str, subject: str, lines: list[str]) -> None:
        if email == "bob@x.org":
            raise ConnectionError("mailbox full")

    async with TestEngine(app, start=EVENING) as engine:
        engine.fake(send_mail, mail)
        await engine.advance("20h")
        assert engine.run(morning).status == "completed"
        runs = engine.all_runs(send_digest)
        assert sorted(run.status for run in runs) == ["completed", "completed", "failed"]
        (failed,) = [run for run in runs if run.status == "failed"]
        assert "mailbox full" in str(failed.error)
        assert [step.attempts for step in failed.steps if step.name == "send_mail"] == [9]


async def test_a_crash_at_eight_enqueues_nobody_twice() -> None:
    async with TestEngine(app, start=EVENING) as engine:
        await engine.advance("12h")
        await engine.crash()
        await engine.advance("1h")
        assert len(engine.all_runs(morning)) == 1
        assert len(engine.all_runs(send_digest)) == len(USERS)


async def test_it_can_be_enqueued_by_hand() -> None:
    async with TestEngine(app, start=EVENING) as engine:
        run = await send_digest.enqueue(USERS[1], "2029-12-31")
        await engine.advance("0s")
        assert await run.result() == 3
