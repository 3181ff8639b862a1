"""Lives one after another on one directory, each ended by a kill or by a power failure, and what is checked between."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from tests.copies import copy_log, remove_log
from tests.system.engine_process import ROOT, environment
from tests.system.faults.life import Order
from tests.system.faults.machine import Machine, lay
from tests.system.faults.promises import Promises
from tests.system.faults.shim import entries

PATIENCE_S = 60.0
LIVES = 8
"""In one directory; then a new one is begun, so that reading it all again stays cheap."""
POINTS = 5
"""Moments in a life at which the power is lost, in one life each; one of them is what the next life finds."""
BUFFERS = (64 << 10, 256 << 10, 32 << 20)


class Nursery:
    """Starts lives, kills them, and hears how they ended."""

    def __init__(self, shim: Path | None = None) -> None:
        preload = {"LD_PRELOAD": str(shim)} if shim else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.faults.life"],
            cwd=ROOT,
            env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | preload,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def live(self, order: Order, long: float | Callable[[], None], *, opened: bool) -> None:
        """One life of so many seconds, or until this returns, from its beginning or from when the log is open."""
        assert self._process.stdin is not None
        said = Path(order.said or Path(order.root) / "said")
        before = said.stat().st_size if said.exists() else 0
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._hear()
        deadline = time.monotonic() + PATIENCE_S
        while opened and not (said.exists() and said.stat().st_size > before):
            assert time.monotonic() < deadline, f"{order} does not open its log"
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.002)
            if not Path(f"/proc/{pid}").exists():
                break
        if callable(long):
            long()
        else:
            time.sleep(long)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = self._hear()
        assert status == -signal.SIGKILL, f"{order} ended by itself: {status}"

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:  # amid a life: it would never end by itself, and the nursery waits for it
            os.killpg(self._process.pid, signal.SIGKILL)
        self.close()

    def _hear(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery is gone"
        return int(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()


@dataclass
class Figures:
    """What a story came to."""

    lives: int = 0
    kills: int = 0
    losses: int = 0
    """Power failures."""
    opening: int = 0
    """Of either, before the log was open."""
    torn: int = 0
    """Power failures that left less than was written."""
    records: int = 0
    acknowledged: int = 0
    troubles: int = 0
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def add(self, other: "Figures") -> None:
        for name in ("lives", "kills", "losses", "opening", "torn", "records", "acknowledged", "troubles"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seconds = round(time.monotonic() - self.began, 1)

    def report(self) -> str:
        shown = {name: value for name, value in asdict(self).items() if name != "began"}
        return ", ".join(f"{name} {value}" for name, value in shown.items())


def kills(folder: Path, nursery: Nursery, seed: int, count: int) -> Figures:
    """So many SIGKILLs at random moments, in one directory. What one left is what the next life opens."""
    rng = random.Random(seed)
    figures = Figures()
    promises = Promises()
    root = folder / "root"
    root.mkdir(parents=True)
    try:
        for life in range(count):
            buffer = rng.choice(BUFFERS)
            in_opening = rng.random() < 0.2
            seconds = rng.uniform(0, 0.04) if in_opening else rng.uniform(0, 0.25)
            nursery.live(Order(str(root), life, rng.getrandbits(32), buffer), seconds, opened=not in_opening)
            said = take_said(root)
            promises.hear(life, said)
            figures.lives += 1
            figures.kills += 1
            figures.opening += b"\n" not in said
            if life == count - 1 or rng.random() < 0.25:
                look(root / "log", folder / "copy", promises)
        return _sum_up(figures, promises)
    except BaseException as error:
        error.add_note(f"seed {seed}, life {figures.lives} in {folder}")
        raise


def power_losses(folder: Path, nursery: Nursery, seed: int, count: int, **troubles: bool | str) -> Figures:
    """So many power failures, some lives of one directory. Each life is cut at several of its moments."""
    rng = random.Random(seed)
    figures = Figures()
    promises = Promises()
    root = folder / "root"
    root.mkdir(parents=True)
    life = 0
    try:
        while figures.losses < count:
            record = folder / f"record-{life}"
            record.touch()  # a life may be over before it begins
            machine = Machine(root)
            buffer = rng.choice(BUFFERS)
            order = Order(str(root), life, rng.getrandbits(32), buffer, str(record), rng.choice((0, 300, 3_000)))
            for name, on in troubles.items():
                setattr(order, name, on)
            in_opening = rng.random() < 0.2
            longest = 0.03 if in_opening else 0.6 if troubles else 0.3
            nursery.live(order, rng.uniform(0, longest), opened=not in_opening)
            changes = list(entries(record))
            figures.lives += 1
            points = [*sorted(rng.randint(0, len(changes)) for _ in range(POINTS - 1)), len(changes)]
            goes_on = rng.randrange(POINTS)
            promised, left = promises, root
            done = 0
            for number, point in enumerate(points):
                machine.happen(islice(changes, done, point))
                done = point
                said = machine.content(root / "said")
                after = promises.copy()
                after.hear(life, said)
                figures.losses += 1
                figures.opening += b"\n" not in said
                image = machine.lose_power(rng)
                image.pop(str(root / "said"), None)
                figures.torn += any(image.get(path) != whole for path, whole in machine.contents().items())
                target = folder / f"life-{life}-{number}"
                lay(image, root, target)
                if number == goes_on:
                    promised, left = after, target
                look(target / "log", folder / "copy", after)
                if number != goes_on:
                    remove_log(target)
            same_as_seen(machine, root)
            promises = promised
            remove_log(root)
            left.rename(root)
            record.unlink()
            life += 1
        return _sum_up(figures, promises)
    except BaseException as error:
        error.add_note(f"seed {seed}, life {life} in {folder}")
        raise


def take_said(root: Path) -> bytes:
    said = root / "said"
    if not said.exists():
        return b""
    text = said.read_bytes()
    said.unlink()
    return text


def look(log: Path, copy: Path, promises: Promises) -> None:
    """Check a copy: the next life finds what the end of this one left, and not what looking makes of it."""
    if copy.exists():
        remove_log(copy)
    if log.exists():
        copy_log(log, copy)
    first = asyncio.run(promises.check(copy))
    if len(first[0]) % 4 == 0:  # and what looking makes of it is the same
        assert asyncio.run(promises.check(copy)) == first
    remove_log(copy)


def same_as_seen(machine: Machine, root: Path) -> None:
    """The model of the disk, with nothing lost, is what the disk really holds: no change escaped the shim."""
    seen = {
        str(path): None if path.is_dir() else path.read_bytes()
        for path in (root, *root.rglob("*"))
        if not path.name.startswith("LOG")
    }
    model = machine.contents()
    differ = sorted(path for path in {*seen, *model} if seen.get(path, b"") != model.get(path, b""))
    # The kill may come between a change and its record: one change, two names at most.
    assert len(differ) <= 2, f"the record of changes does not lead to what is on the disk: {differ}"


def _sum_up(figures: Figures, promises: Promises) -> Figures:
    figures.records = sum(map(len, promises.known))
    figures.acknowledged = sum(promises.tickets.values())
    figures.troubles = promises.troubles
    return figures
