"""Starts the child, gives it work, kills it at random moments, and remembers what it acknowledged."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.engine_process import ROOT, environment, tell
from tests.system.kill.checks import Sent
from tests.system.kill.reader import in_flight, read_steps

AIRPORTS = ROOT / "examples" / "data" / "airports.csv"
UPLOADED, REVIEWED, PING = "api/contact_list.uploaded", "api/contact_list.reviewed", "kill/ping"
LIVE_IMPORTS = 3
ENDED = {"completed", "failed", "cancelled", "discarded"}
PATIENCE_S = 60.0


@dataclass
class Import:
    """One upload, and what is still to be done about it."""

    number: int
    path: Path
    rows: int
    good: bool
    review_at: float
    approved: bool
    cancel_at: float
    reviewed: bool = False
    cancelled: bool = False
    imported: bool = False
    """The import has ended."""
    ended: bool = False
    """So has the run beside it."""

    @property
    def event(self) -> str:
        return f"upload-{self.number}"


@dataclass
class Figures:
    kills: int = 0
    kills_in_flight: int = 0
    kills_before_ready: int = 0
    asked_again: int = 0
    checked_stores: int = 0
    began: float = field(default_factory=time.monotonic)


class Child:
    """One life of the engine's process. What it says goes to a file, and so outlives it."""

    def __init__(self, folder: Path, life: int, settings: Mapping[str, str] | None = None) -> None:
        self._output = folder / f"said-{life}.jsonl"
        self._errors = folder / "errors.txt"
        self._read = 0
        with self._output.open("wb") as output, self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.kill.child", str(folder)],
                cwd=ROOT, env=environment() | dict(settings or {}), stdin=subprocess.PIPE, stdout=output, stderr=errors,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, **order: Any) -> None:
        if not tell(self.process, order):
            self.check()

    def heard(self) -> list[dict[str, Any]]:
        """What it has said since the last look, whole lines only."""
        with self._output.open("rb") as output:
            output.seek(self._read)
            text = output.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for_ready(self) -> None:
        """Until it takes orders."""
        deadline = time.monotonic() + PATIENCE_S
        while not any("ready" in answer for answer in self.heard()):
            self.check()
            assert time.monotonic() < deadline, "the engine is not ready"
            time.sleep(0.01)

    def check(self) -> None:
        """It must not have ended by itself."""
        code = self.process.poll()
        assert code is None, f"the engine ended with {code}:\n{self._errors.read_text()[-4_000:]}"

    def kill(self) -> None:
        self.check()
        self.process.kill()
        self.process.wait()
        self._close()

    def leave(self) -> int:
        """Let it drain; the exit code."""
        self._close()
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """Whatever the test has come to."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


class Driver:
    """All lives of the engine. Work is added until the kills are done, then everything runs to its end."""

    def __init__(self, folder: Path, seed: int, kills: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills = kills
        self.figures = Figures()
        self.sent = Sent()
        self.imports: list[Import] = []
        self.states: dict[str, tuple[str, str]] = {}
        self.counts: list[dict[str, int]] = []
        self._waiting: dict[int, tuple[dict[str, Any], int]] = {}
        self._n = 0
        self._pings = 0
        self._asked_states = 0.0
        self._table = AIRPORTS.read_text(encoding="utf-8").splitlines()

    # A life

    def live(self, life: int) -> bool:
        """One life. True if it was killed; False if everything had ended before that, and it was let go."""
        last = self.figures.kills >= self.kills and self.figures.kills_in_flight >= self.kills // 2
        before = time.time_ns() // 1_000_000
        child = self.begin(life)
        self.sent.born[child.pid] = before
        try:
            in_start = not last and self.random.random() < 0.25
            until = time.monotonic() + (self.random.uniform(0, 0.35) if in_start else PATIENCE_S)
            ready = self._work(child, until, last, random_end=not in_start and not last)
            if last:
                assert child.leave() == 0, "the engine did not drain"
                self._hear(child)
                return False
            if ready and self.random.random() < 0.4:
                self._last_orders(child)
            child.kill()
            ready = self._hear(child) or ready
            self._count_kill(child, ready)
            self.killed()
            return True
        finally:
            child.end()

    def begin(self, life: int) -> Child:
        return Child(self.folder, life)

    def killed(self) -> None:
        """What else becomes of the machine; the next life finds what this leaves."""

    def _work(self, child: Child, until: float, last: bool, *, random_end: bool) -> bool:
        """Give orders until the moment comes, or in the last life until all has ended. Whether it was ever ready."""
        ready = False
        while time.monotonic() < until:
            child.check()
            if self._hear(child) and not ready:
                ready = True
                self._ask_again(child)
                if random_end:
                    until = time.monotonic() + self.random.uniform(0.01, 0.6)
            if ready:
                self._give_orders(child, last)
                if last and self._all_ended():
                    self._ask_counts(child)
                    return True
            time.sleep(0.004)
        assert ready or not random_end, "the engine was not ready in time"
        assert not last, f"not everything has ended: {self.states}"
        return ready

    def _count_kill(self, child: Child, ready: bool) -> None:
        self.figures.kills += 1
        self.figures.kills_before_ready += not ready
        flying = in_flight(read_steps(self.folder / "steps.txt"), child.pid)
        self.figures.kills_in_flight += bool(flying)

    # Orders

    def _order(self, child: Child, **order: Any) -> None:
        self._n += 1
        self._waiting[self._n] = order, child.pid
        child.tell(n=self._n, **order)

    def _give_orders(self, child: Child, last: bool) -> None:
        now = time.monotonic()
        if not last and self.random.random() < 0.5:
            self._ping(child)
        asked = {order.get("id", order.get("event")) for order, _ in self._waiting.values()}
        if not last and sum(not one.imported for one in self.imports) < LIVE_IMPORTS:
            self._upload(child)
        for one in self.imports:
            if one.ended or one.event not in self.sent.events:
                continue
            if not one.reviewed and (now >= one.review_at or last) and f"review-{one.number}" not in asked:
                data = {"upload_id": one.event, "approved": one.approved}
                self._order(child, order="send", name=REVIEWED, id=f"review-{one.number}", data=data)
            if not one.cancelled and now >= one.cancel_at and one.event not in asked:
                self._order(child, order="cancel", event=one.event)
        if now > self._asked_states + (0.5 if last else 0.2):
            self._asked_states = now
            self._order(child, order="states")

    def _upload(self, child: Child) -> None:
        number, rng, now = len(self.imports), self.random, time.monotonic()
        rows = rng.randint(400, 700)
        first = rng.randrange(1, len(self._table) - rows)
        good = number % 8 != 5
        path = self.folder / f"upload-{number}.csv"
        lines = [self._table[0], *self._table[first : first + rows]]
        path.write_text("\n".join(lines + ["BAD,row"] * (not good)) + "\n", encoding="utf-8")
        cancel_at = now + rng.uniform(0, 2) if number % 6 == 1 else float("inf")
        one = Import(number, path, rows, good, now + rng.uniform(0, 0.5), rng.random() > 0.1, cancel_at)
        self.imports.append(one)
        self._send_upload(child, one)

    def _last_orders(self, child: Child) -> None:
        """The kill comes while events are on their way through the partitions."""
        for _ in range(self.random.randint(1, 10)):
            self._ping(child)
        self._upload(child)
        time.sleep(self.random.uniform(0, 0.01))

    def _ping(self, child: Child) -> None:
        self._pings += 1
        self._order(child, order="send", name=PING, id=f"ping-{self._pings}", data={"n": self._pings})

    def _send_upload(self, child: Child, one: Import) -> None:
        data = {"upload_id": one.event, "path": str(one.path)}
        self._order(child, order="send", name=UPLOADED, id=one.event, data=data)

    def _ask_again(self, child: Child) -> None:
        """What the process before did not acknowledge is asked for again, and some of what it did."""
        lost, self._waiting = self._waiting, {}
        for order, _ in lost.values():
            if order["order"] != "states":
                self.figures.asked_again += 1
                self._order(child, **order)
        known = [one for one in self.imports if one.event in self.sent.events]
        if known and self.random.random() < 0.3:
            self._send_upload(child, self.random.choice(known[-4:]))
        self._asked_states = 0.0

    def _ask_counts(self, child: Child) -> None:
        self._order(child, order="counts")
        deadline = time.monotonic() + PATIENCE_S
        while not self.counts and time.monotonic() < deadline:
            child.check()
            self._hear(child)
            time.sleep(0.01)

    def ask_states(self, child: Child) -> None:
        """Wait for the engine, and for what it says of all runs."""
        child.wait_for_ready()
        self._order(child, order="states")
        deadline = time.monotonic() + PATIENCE_S
        while not self.states:
            child.check()
            assert time.monotonic() < deadline, "the engine says nothing"
            self._hear(child)
            time.sleep(0.01)

    def _all_ended(self) -> bool:
        """Every upload that was sent is known to the engine, and every run of it has ended."""
        unanswered = any(order["order"] != "states" for order, _ in self._waiting.values())
        return (
            not unanswered
            and all(one.event in self.sent.events and one.ended for one in self.imports)
            and all(status in ENDED for _, status in self.states.values())
        )

    # Answers

    def _hear(self, child: Child) -> bool:
        """Whether it has said that it is ready."""
        ready = False
        for answer in child.heard():
            if "ready" in answer:
                ready = True
                continue
            order, pid = self._waiting.pop(answer["n"])
            assert pid == child.pid
            self._take(order, answer, child)
        return ready

    def _take(self, order: dict[str, Any], answer: dict[str, Any], child: Child) -> None:
        match order["order"]:
            case "send":
                self._sent(order, answer)
            case "cancel":
                self._cancelled(order, answer, child.pid)
            case "states":
                self._see_states(answer)
            case _:
                self.counts = answer["counts"]

    def _sent(self, order: dict[str, Any], answer: dict[str, Any]) -> None:
        assert answer["event"] == order["id"]
        self.sent.events[order["id"]] = order["name"], order["data"]
        if order["name"] == REVIEWED:
            self.imports[int(order["id"].removeprefix("review-"))].reviewed = True

    def _cancelled(self, order: dict[str, Any], answer: dict[str, Any], pid: int) -> None:
        self.imports[int(order["event"].removeprefix("upload-"))].cancelled = True
        for run in answer["cancelled"]:
            self.sent.cancelled.setdefault(run, (answer["at"], pid))

    def _see_states(self, answer: dict[str, Any]) -> None:
        self.states = {run: (function, status) for run, (function, status, _) in answer["runs"].items()}
        by_event: dict[str, dict[str, bool]] = {}
        for function, status, event in answer["runs"].values():
            by_event.setdefault(event, {})[function] = status in ENDED
        for one in self.imports:
            found = by_event.get(one.event, {})
            one.imported = found.get("import_contacts", False)
            one.ended = one.imported and found.get("watch", False)
