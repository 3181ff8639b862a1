"""Swarm testing: each seed draws which faults its world has, and how often. A world with all of them at once hides

what one alone would show (a pod that always crashes before its session times out is never a zombie).
"""

from dataclasses import dataclass, fields
from random import Random


@dataclass
class Swarm:
    """Rates are events a second of virtual time in a world; `p_` are probabilities a request; all 0 is a calm world."""

    # How the world is made
    embedded: bool = False
    """One pod, whose log is on its own disk, and no brokers."""
    pods: int = 1
    partitions: int = 3
    tick_seconds: float = 0.1
    latency: float = 0.002
    """Mean time of a message between pod and broker, in seconds."""
    tail: float = 0.0
    """Probability that a message takes up to a hundred times as long."""
    most_records: int = 500
    """Records in one fetch at most."""
    session: float = 6.0
    request_timeout: float = 2.0
    skew_ms: int = 0
    """Brokers' clocks differ by up to this."""
    evict: bool = False
    events: int = 0
    """Partitions of a topic of events, by which clients' events come; 0: they come to the journal itself."""
    round_ms: int = 60_000
    """How often a snapshot is due, and a trimming."""
    retention_ms: int | None = 0
    """How long the journal is left to people beyond what the engine needs."""
    grace_seconds: float = 30.0
    """How long a partition that was taken away is kept warm."""
    checkpoint_ticks: int = 5
    fires_a_tick: int = 1_000
    lease_ms: int = 60_000
    """How long a member of a worker pool may be silent."""
    ask_again_seconds: float = 5.0
    """How long a member waits for the answer to its claim at first."""
    pools: bool = False
    """Programs have steps for worker pools."""
    differ: bool = False
    """What fickle code reads is not the same in all pods, nor from time to time."""
    changing: bool = False
    """Versions of the app define their functions in different ways."""
    roll_seconds: float = 1.0
    """How long a deploy waits at most between one pod and the next."""
    # What goes wrong
    crash: float = 0.0
    power_loss: float = 0.0
    freeze: float = 0.0
    cut: float = 0.0
    """A pod cannot reach the brokers for a while."""
    severed: float = 0.0
    """A pod cannot reach the broker that leads one partition."""
    slow: float = 0.0
    rebalance: float = 0.0
    deploy: float = 0.0
    leap: float = 0.0
    """A broker's clock goes ahead, and comes back later."""
    leader: float = 0.0
    full: float = 0.0
    """A pod's disk is full for a while."""
    compact: float = 0.0
    p_crash_at_append: float = 0.0
    p_crash_at_write: float = 0.0
    p_lost_request: float = 0.0
    p_lost_answer: float = 0.0
    p_abandon: float = 0.0
    """After a request that was not answered: a new producer, rather than the old one's word again."""
    p_late: float = 0.0
    """What an abandoned producer held arrives after its successor's."""
    p_hole: float = 0.0
    """An abandoned producer delivers what comes after its first batch, and not that."""
    p_ghost: float = 0.0
    """Of each change of owners: an opinion arrives that an owner before had when it was none any more."""
    p_parted: float = 0.0
    """New code's paths do not arrive in a partition: each time they are sent to one."""
    p_flip: float = 0.0
    """A bit of the disk is another one when its pod starts again."""

    def on(self) -> list[str]:
        """The faults that this world has."""
        return [field.name for field in fields(self) if field.name in FAULTS and getattr(self, field.name)]

    def calm(self) -> None:
        """No more faults from here on."""
        for name in FAULTS:
            setattr(self, name, 0.0)
        self.tail = 0.0


RATES = ("crash", "power_loss", "freeze", "cut", "slow", "rebalance", "deploy", "leap", "leader", "full", "compact")
CHANCES = (
    "p_crash_at_append", "p_crash_at_write", "p_lost_request", "p_lost_answer", "p_abandon", "p_late", "p_flip",
)  # fmt: skip
MORE_RATES, MORE_CHANCES = ("severed",), ("p_hole", "p_ghost", "p_parted")
"""Drawn from `WHOLE_FROM` on."""
FAULTS = (*RATES, *CHANCES, *MORE_RATES, *MORE_CHANCES)
_OFTEN = {"p_crash_at_append": 0.004, "p_crash_at_write": 0.01, "p_flip": 0.3, "p_abandon": 0.8, "p_late": 0.8}


WAITS_FROM = 10_000
"""From this seed on the engine's own waits are drawn, too. Seeds below, some of them recorded, stay what they were."""
WHOLE_FROM = 20_000
"""From this seed on a world draws all that the simulator knows. What it learns is added here, and nowhere below."""


def drawn(seed: int) -> Swarm:
    """What a seed's world is."""
    return draw(Random(f"{seed}/swarm"), waits=seed >= WAITS_FROM, whole=seed >= WHOLE_FROM)


def draw(rng: Random, *, most_pods: int = 4, waits: bool = False, whole: bool = False) -> Swarm:
    """A world's options: each fault is there or not, at a rate of its own."""
    swarm = Swarm(
        pods=rng.randint(1, most_pods),
        partitions=rng.choice((1, 2, 3, 4)),
        tick_seconds=rng.choice((0.1, 0.25, 0.5)),
        latency=rng.choice((0.000_5, 0.002, 0.02)),
        tail=rng.choice((0.0, 0.0, 0.01, 0.05)),
        most_records=rng.choice((1, 7, 500)),
        session=rng.choice((3.0, 6.0, 10.0)),
        request_timeout=rng.choice((0.5, 2.0)),
        skew_ms=rng.choice((0, 0, 50, 5_000)),
        evict=rng.random() < 0.2,
    )
    if rng.random() < 0.2:
        swarm.embedded, swarm.pods = True, 1
    for name in RATES:
        if rng.random() < 0.4:
            setattr(swarm, name, rng.choice((0.02, 0.1, 0.3)))
    for name in CHANCES:
        if rng.random() < 0.4:
            setattr(swarm, name, rng.choice((0.02, 0.1, 0.3)) if name not in _OFTEN else _OFTEN[name] * rng.random())
    if not waits:
        return swarm
    swarm.round_ms = rng.choice((300, 3_000, 60_000))
    swarm.retention_ms = rng.choice((0, 0, 5_000, None))
    swarm.grace_seconds = rng.choice((0.5, 5.0, 30.0))
    swarm.checkpoint_ticks = rng.choice((1, 5))
    swarm.fires_a_tick = rng.choice((1, 1_000))
    if not whole:
        return swarm
    swarm.lease_ms = rng.choice((5_000, 20_000))
    swarm.ask_again_seconds = rng.choice((0.5, 5.0))
    swarm.pools = rng.random() < 0.5
    swarm.differ = rng.random() < 0.5
    swarm.p_ghost = rng.choice((0.0, 0.0, 0.3, 1.0))
    swarm.changing = True
    swarm.p_hole = rng.choice((0.0, 0.5, 1.0))
    swarm.severed = rng.choice((0.0, 0.0, 0.1, 0.3))
    return swarm


def part(swarm: Swarm, rng: Random) -> None:
    """New paths come late to some partitions."""
    swarm.embedded = False
    swarm.pods, swarm.partitions = rng.choice((3, 4)), rng.choice((2, 3, 4))
    swarm.p_parted = 0.9


def move(swarm: Swarm, rng: Random) -> None:
    """Partitions go from pods of old code to those of new, and back, and are kept warm meanwhile."""
    swarm.embedded = False
    swarm.pods, swarm.partitions = rng.choice((3, 4)), rng.choice((2, 3, 4))
    swarm.grace_seconds, swarm.roll_seconds, swarm.rebalance = 30.0, 10.0, 0.3
