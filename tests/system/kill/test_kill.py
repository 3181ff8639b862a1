"""A real engine is killed with SIGKILL again and again amid imports: nothing is lost, nothing happens twice.

The normal run kills a dozen times. The full one:

    PERDURE_KILLS=100 python -m pytest -s tests/system/kill
"""

import asyncio
import os
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.flow.view import View
from perdure.log.embedded import EmbeddedLog
from tests.copies import copy_log, remove_log
from tests.evidence.folding import assert_all_arrived, check_store
from tests.system.kill.checks import Story, check_all
from tests.system.kill.driver import Child, Driver
from tests.system.kill.reader import read_journal, read_steps
from tests.system.kill.teeth import each_lie_is_noticed

KILLS = int(os.environ.get("PERDURE_KILLS", "12"))
SEED = int(os.environ.get("PERDURE_SEED", "3"))
LOOK_EVERY = 6
"""After so many kills the log is copied, as it was left, and folded again."""


def test_every_import_survives_kills_at_random_moments(tmp_path: Path) -> None:
    driver = Driver(tmp_path, SEED, KILLS)
    life = 0
    while driver.live(life):
        life += 1
        assert life <= KILLS * 2 + 20, f"too few kills find steps in flight: {driver.figures}"
        if life % LOOK_EVERY == 0:
            asyncio.run(check_left_behind(tmp_path))
            driver.figures.checked_stores += 1
    assert driver.figures.kills >= KILLS
    assert driver.figures.kills_in_flight >= KILLS // 2

    story = Story(read_journal(tmp_path / "log"), read_steps(tmp_path / "steps.txt"), driver.sent)
    check_all(story, driver.states)
    each_lie_is_noticed(story, driver.states)
    rows_are_stored_once(story, tmp_path)
    asyncio.run(check_store_and_counts(driver, story))
    dropping_the_stores_changes_nothing(driver)
    report(driver, story)


def test_kills_while_a_log_is_made(tmp_path: Path) -> None:
    """A directory that was never opened before: whatever is there of it, the next start makes the rest."""
    rng = random.Random(SEED)
    for number in range(max(3, KILLS // 5)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for life in range(rng.randint(1, 3)):
            with living(folder, life) as child:
                while not (folder / "log" / "lock").exists():
                    child.check()
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.12))
                child.kill()
        with living(folder, 9) as child:
            child.wait_for_ready()
            assert child.leave() == 0


@contextmanager
def living(folder: Path, life: int) -> Iterator[Child]:
    child = Child(folder, life)
    try:
        yield child
    finally:
        child.end()


async def check_left_behind(folder: Path) -> None:
    """What a killed process leaves: each checkpoint equals the fold of the log up to it (I2, I7)."""
    copy = folder / "copy"
    copy_log(folder / "log", copy)
    log = EmbeddedLog(copy)
    await log.open()
    for partition in range(log.partitions):
        check_store(log, partition)
    await log.close()
    remove_log(copy)


def rows_are_stored_once(story: Story, folder: Path) -> None:
    """The table has a row for each insert that the log holds, and each import counts them."""
    inserted: Counter[str] = Counter()
    keys: set[str] = set()
    failed: Counter[str] = Counter()
    for entry in story.every("step.completed", "step.failed"):
        record = entry.record
        if "/insert#" not in record["op"]:
            continue
        if entry.kind == "step.completed":
            inserted[record["run"]] += 1
            keys.add(f"{record['run']}/{record['op']}")
            assert record["result"]["inline"] == record["input"][0][0]["iata"], "I4: another row's result"
        elif "retry_in_ms" not in record:
            # A step that happened to run alone in three deaths is taken for what kills: that is no loss, but told.
            assert record["error"]["type"] == "perdure.errors.Crashed", record["error"]
            failed[record["run"]] += 1
    db = sqlite3.connect(folder / "contacts.db")
    stored = {key for (key,) in db.execute("SELECT key FROM airports")}
    db.close()
    begun = {line.key for line in story.lines if line.word == "started"}
    assert keys <= stored <= begun
    for run, (status, entry) in story.ends.items():
        if status == "completed" and isinstance(entry.record["result"]["inline"], int):
            assert entry.record["result"]["inline"] == inserted[run], f"run {run}: {failed[run]} rows failed"


async def check_store_and_counts(driver: Driver, story: Story) -> None:
    """The engine drained: its state stands at the end of the log, and is what a fold of all of it gives."""
    log = EmbeddedLog(driver.folder / "log")
    await log.open()
    ignored, views = 0, list[View]()
    for partition in range(log.partitions):
        again = check_store(log, partition)
        assert again.offset == log.end(partition) == len(story.journal[partition]), "I7: all of it is folded"
        ignored += again.ignored
        views.append(again.view)
        counts = driver.counts[partition]
        assert counts["read"] == counts["folded"] + counts["ignored"], f"I8: {counts}"
    assert_all_arrived(views)
    assert ignored == story.repeated, "I8: the fold ignores what the log has twice, and nothing else"
    await log.close()


def dropping_the_stores_changes_nothing(driver: Driver) -> None:
    """Without its state the engine folds the log again, and says the same of every run."""

    async def drop() -> None:
        log = EmbeddedLog(driver.folder / "log")
        await log.open()
        for partition in range(log.partitions):
            log.drop_store(partition)
        await log.close()

    asyncio.run(drop())
    told, steps = dict(driver.states), (driver.folder / "steps.txt").stat().st_size
    driver.states = {}
    with living(driver.folder, 1_000_000) as child:
        driver.ask_states(child)
        assert child.leave() == 0
    assert driver.states == told, "I2: after dropping the store"
    assert (driver.folder / "steps.txt").stat().st_size == steps, "I6: a step ran although all runs had ended"


def report(driver: Driver, story: Story) -> None:
    """For the closing note: seen with -s."""
    figures, kinds = driver.figures, Counter(entry.kind for entry in story.every())
    starts = Counter((line.key, line.attempt) for line in story.lines if line.word == "started")
    lines = {
        "seed": SEED,
        "kills": figures.kills,
        "kills with steps in flight": figures.kills_in_flight,
        "kills before it was ready": figures.kills_before_ready,
        "uploads": len(driver.imports),
        "events acknowledged": len(driver.sent.events),
        "orders asked again": figures.asked_again,
        "cancels acknowledged": len(driver.sent.cancelled),
        "runs": len(story.ends),
        "runs by end": dict(Counter(status for status, _ in story.ends.values())),
        "steps recorded": kinds["step.completed"],
        "step bodies begun": sum(starts.values()),
        "begun more than once": sum(count > 1 for count in starts.values()),
        "timers fired": sum(story.fires.values()),
        "fires that came twice": sum(count > 1 for count in story.fires.values()),
        "records": sum(map(len, story.journal.values())),
        "records sent twice": story.repeated,
        "checkpoints compared on the way": figures.checked_stores,
        "seconds": round(time.monotonic() - figures.began, 1),
    }
    for name, value in lines.items():
        print(f"{name:32} {value}", file=sys.stderr)
