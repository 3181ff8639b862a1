"""The owner's side of timers: append `timer.fired` when its estimate of log time reaches due, some a tick."""

from collections.abc import Callable

from perdure.flow.definitions import CRON, parse_timer_key
from perdure.flow.view import View
from perdure.schedule import last_fire, next_fire
from perdure_schemas.records import CronScheduled, Record, TimerFired, V

FIRES_A_TICK = 1_000
PROBE_MS = 1_000
"""How far the log's clock may be ahead of our estimate before it is asked. Less is what records take on their way."""


class TimerDriver:
    """Fires are appended at least once; the fold lets each timer act once and never early (I9).

    `shared`: the clock that counts is that of the partition's broker, and `now_ms` is only our own: what it went on by
    since the last record was read, is added to that record's time. So a fire that came too early corrects the estimate.

    It is too low by as much as the record was on its way, and if the machine slept meanwhile, that is long. So a timer
    that is due by our own clock, too, as far as the log's stamps bear that clock out, is fired as a probe: one alone,
    since it comes back with a stamp, whether it acts or is refused.
    """

    def __init__(
        self, view: View, append: Callable[[Record], int], now_ms: Callable[[], int], *, shared: bool = False
    ) -> None:
        self._view = view
        self._append = append
        self._now_ms = now_ms
        self._shared = shared
        self._read_at: int | None = None
        """What our own clock said when the last record was read."""
        self._ahead = 0
        """How far our own clock is ahead of the log's: not at all, until records show otherwise."""
        self._pending: dict[tuple[str, str, int], int] = {}
        """Fires that were not read back yet, with what our own clock said when they were appended."""

    def now_ms(self) -> int:
        """Estimate of log time: at least what was read."""
        view = self._view
        if self._read_at is None:
            return max(view.at, self._now_ms())
        return max(view.at, view.stamp + self._now_ms() - self._read_at)

    def next_due(self) -> int | None:
        """When the next tick has work, within the window; a pending fire is not waited for."""
        return self._view.timers.next(self.now_ms())

    def first_due(self, *, crons: bool = True) -> int | None:
        """When the earliest timer of all is due, however far; for clocks that jump."""
        if crons or not any(True for _ in self._view.crons.items()):
            return self._view.timers.first()
        skip = len(self._view.timers.prefix)
        rows = self._view.timers.rows()
        dues = (int.from_bytes(row[skip : skip + 8], "big") for row in rows if not row[skip + 8 :].startswith(b"cron:"))
        return min(dues, default=None)

    def tick(self) -> int:
        """Append what is due. Returns how many fires were appended."""
        now = self.now_ms()
        fired = sum(self._fire(key, now) for _, key in self._view.timers.due(now, FIRES_A_TICK))
        return fired if self._pending or not self._shared else self._probe()

    def _probe(self) -> int:
        """Append a fire that may be due. One that is refused shows our clock to be further ahead by over `PROBE_MS`, so

        a clock that is ahead for good costs one, and not one for each timer.
        """
        perhaps = self._now_ms() - self._ahead - PROBE_MS
        # A schedule goes on after the fire that is asked about: later ones that our clock has passed may not be due.
        return sum(self._fire(key, due) for due, key in self._view.timers.due(perhaps, 1))

    def _fire(self, key: bytes, now: int) -> bool:
        identity = parse_timer_key(key)
        if identity in self._pending:
            return False
        self._pending[identity] = self._now_ms()
        entity, timer, setter = identity
        if entity.startswith(CRON):
            self._append(self.cron_fired(entity, setter, now))
        else:
            self._append(TimerFired(entity, timer, setter, v=V))
        return True

    def read_back(self) -> bool:
        """Fires that were folded, whether they acted or were refused, may be appended again. Whether there were any."""
        stamp = self._view.stamp
        if self._shared:
            # Stamped before it was read, and, if it is ours, after it was appended.
            self._read_at = self._now_ms()
            self._ahead = min(self._ahead, self._read_at - stamp)
        fired = self._view.effects.fired
        if not fired:
            return False
        for identity in fired:
            appended = self._pending.pop(identity, None)
            if appended is not None:
                self._ahead = max(self._ahead, appended - stamp)
        fired.clear()
        return True

    def cron_fired(self, entity: str, setter: int, now: int) -> TimerFired:
        """The fire of a schedule at log time `now`, with the one after it."""
        function = entity.removeprefix(CRON)
        state = self._view.crons.get(function)
        routes = self._view.routes()
        if state is None or routes is None:
            return TimerFired(entity, "", setter, v=V)
        defined = routes.functions.get(function)
        catchup = defined is not None and defined.cron is not None and defined.cron.catchup
        # Without catchup the latest missed fire runs once, late; those before it are skipped.
        scheduled = state.due if catchup else last_fire(state.line, state.tz, state.due, now)
        following = next_fire(state.line, state.tz, scheduled)
        return TimerFired(entity, "", setter, following, scheduled if scheduled != state.due else None, v=V)

    def schedule(self, function: str) -> None:
        """Compute a cron function's first fire; folds must not, a time zone's rules may change under them."""
        routes = self._view.routes()
        defined = routes.functions.get(function) if routes else None
        if defined is not None and defined.cron is not None:
            cron = defined.cron
            due = next_fire(cron.line, cron.tz, self.now_ms())
            self._append(CronScheduled(function, cron.line, cron.tz, due, v=V))

    def schedule_missing(self) -> None:
        """After a restart: schedules whose first fire was asked for and never appended."""
        routes = self._view.routes()
        for function, defined in (routes.functions if routes else {}).items():
            mine = self._view.partition_of(CRON + function) == self._view.partition
            if defined.cron is not None and mine and self._view.crons.get(function) is None:
                self.schedule(function)
