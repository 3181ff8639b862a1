"""cancel_on under faults: the model `cluster` on the real folds. Of the runs of one cart the last event's survives."""

from typing import Any, cast

import msgspec
import pytest

from perdure.flow import FOLDS, decode, fold, matcher
from perdure.flow.routing import partition_of
from perdure.flow.view import View
from perdure_schemas.definition import CancelDefined
from perdure_schemas.records import EventKeyed, EventReceived, MatchSubscribed, V
from tests.flow.storm import Storm, seeds
from tests.flow.world import definition_of, event, key_of, on, run_of

CARTS, EVENTS_OF_A_CART = 5, 3
EXACTLY_THE_LATER = CancelDefined("cart", path="data.cart", equals="data.cart")


class Carts(Storm):
    """Events of some carts, each of which starts a run and cancels those before it. Partitions' clocks differ."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, skewed=True)
        function = on("cart", cancel_on=(EXACTLY_THE_LATER,), paths=(("cart", "data.cart"),))
        self.define(definition_of(function, window_ms=1 << 40))
        self.coming = [(cart, n) for n in range(EVENTS_OF_A_CART) for cart in range(CARTS)]
        self.coming.sort(key=lambda one: (one[1], self.random.random()))

    def play(self) -> None:
        for turn in range(20_000):
            if self.coming and self.random.random() < 0.05:
                cart, n = self.coming.pop(0)
                body = event(f"c{cart}e{n}", "cart", cart=f"c{cart}")
                self.write(partition_of(body.id, self.partitions), EventReceived(body, v=V), copied=0.15)
            self.faults = turn <= 2_500
            self.turn()
            if turn % 100 == 0 and not self.coming and self.quiet():
                return


def faults_of(story: Carts) -> list[str]:
    faults: list[str] = []
    order: dict[str, list[str]] = {}
    statuses: dict[str, str] = {}
    for partition, journal in enumerate(story.journals):
        view = View(partition, story.partitions)
        for offset, (stamp, raw) in enumerate(journal.records):
            record = decode(raw)
            if fold(view, record, raw, offset, stamp) and isinstance(record, EventKeyed):
                order.setdefault(record.key, []).append(record.event.id)
        statuses |= {run: state.status for run, state in view.runs.items()}
    for cart in range(CARTS):
        events = order[key_of("cart", "data.cart", f"c{cart}")]
        alive = [one for one in events if statuses.get(run_of(one)) == "running"]
        if len(events) != EVENTS_OF_A_CART:
            faults.append(f"cart {cart}: {len(events)} events")
        if alive != events[-1:]:
            faults.append(f"cart {cart}: {alive} alive of {events}")
    return faults


def played(seed: int) -> Carts:
    story = Carts(seed)
    story.play()
    return story


@pytest.mark.parametrize("seed", seeds(24))
def test_exactly_the_last_run_of_a_cart_survives(seed: int) -> None:
    story = played(seed)
    assert faults_of(story) == []
    story.check()


def test_after_the_trigger_by_clocks_is_noticed() -> None:
    """On the trigger's own key the order of the copies decides: log times of two partitions cannot."""

    def by_time(view: View, record: MatchSubscribed, at: int) -> None:
        matcher.match_subscribed(view, msgspec.structs.replace(record, own=None), at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast(Any, FOLDS), MatchSubscribed, by_time)
        assert any(faults_of(played(seed)) for seed in range(20))
