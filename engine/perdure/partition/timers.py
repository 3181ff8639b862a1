"""The owner's side of timers: append `timer.fired` when its estimate of log time reaches due, some a tick."""

from collections.abc import Callable

from perdure.flow.definitions import CRON, parse_timer_key
from perdure.flow.view import View
from perdure.schedule import last_fire, next_fire
from perdure_schemas.records import CronScheduled, Record, TimerFired, V

FIRES_A_TICK = 1_000


class TimerDriver:
    """Fires are appended at least once; the fold lets each timer act once and never early (I9).

    `shared`: the clock that counts is that of the partition's broker, and `now_ms` is only our own: what it went on by
    since the last record was read, is added to that record's time. So a fire that came too early corrects the estimate.
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
        self._pending: set[tuple[str, str, int]] = set()

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
        now, fired = self.now_ms(), 0
        for _, key in self._view.timers.due(now, FIRES_A_TICK):
            identity = parse_timer_key(key)
            if identity in self._pending:
                continue
            self._pending.add(identity)
            entity, timer, setter = identity
            if entity.startswith(CRON):
                self._append(self._cron_fired(entity, setter, now))
            else:
                self._append(TimerFired(entity, timer, setter, v=V))
            fired += 1
        return fired

    def read_back(self) -> bool:
        """Fires that were folded, whether they acted or were refused, may be appended again. Whether there were any."""
        if self._shared:
            self._read_at = self._now_ms()
        fired = self._view.effects.fired
        if not fired:
            return False
        self._pending.difference_update(fired)
        fired.clear()
        return True

    def _cron_fired(self, entity: str, setter: int, now: int) -> TimerFired:
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
