"""A daily digest: at 08:00 UTC a cron function enqueues one background run per user.

The runs are on their own: one user whose mail fails is retried alone and holds up nobody. The day is that of the
schedule, so that a run that is late, or run again by hand, still tells of its own day.

    python examples/digest.py                            the next morning, in a moment
    perdure dev examples.digest:app                      the same code, served, at the real 08:00
"""

import asyncio
from datetime import UTC, datetime

from msgspec import Struct

from perdure import App, Context

app = App("digest")


class User(Struct):
    """Who reads us, and about what."""

    email: str
    topics: list[str]


USERS = [User("ada@x.org", ["tea"]), User("bob@x.org", ["tea", "cups"]), User("cleo@x.org", [])]
NEWS = {"tea": ["First flush has arrived"], "cups": ["Blue is back", "Two for one"]}


@app.step
async def subscribers() -> list[User]:
    """Stands for a query. A step: what it found stays the same if this run is replayed."""
    return USERS


@app.step
async def collect(topics: list[str], day: str) -> list[str]:
    """Stands for a search in the news of `day`."""
    return [headline for topic in topics for headline in NEWS[topic]]


@app.step(retries=8)
async def send_mail(email: str, subject: str, lines: list[str]) -> None:
    """Stands for a mail service."""
    print(f"  mail to {email}: {subject}: {'; '.join(lines)}")


@app.background
async def send_digest(user: User, day: str) -> int:
    """Mails one user the headlines of her topics, if there are any."""
    headlines = await collect(user.topics, day)
    if headlines:
        await send_mail(user.email, f"Your digest of {day}", headlines)
    return len(headlines)


@app.cron("0 8 * * *")
async def morning(ctx: Context) -> int:
    """Enqueues the digest of each user and does not wait for them."""
    users = await subscribers()
    day = f"{ctx.scheduled_at or ctx.now():%Y-%m-%d}"
    for user in users:
        await send_digest.enqueue(user, day)
    return len(users)


async def main() -> None:
    """Starts on the evening before."""
    from perdure.testing import TestEngine

    async with TestEngine(app, start=datetime(2030, 1, 1, 20, tzinfo=UTC)) as engine:
        print(f"{engine.now:%d %B %H:%M}: nothing to do yet")
        await engine.advance("12h")
        print(f"{engine.now:%d %B %H:%M}: {engine.run(morning).output} digests enqueued")
        for run in engine.all_runs(send_digest):
            print(f"  {run.id}  {run.status}  {run.output} headlines")


if __name__ == "__main__":
    asyncio.run(main())
