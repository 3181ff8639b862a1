"""Plans that aim at narrow moments, which chance alone seldom makes."""

import random

from tests.simulation.programs.generate import KEYS, SPANS_MS, USERS, random_program
from tests.simulation.programs.plan import AnyMove, Begin, Crash, Name, Pass, Plan, Tell
from tests.simulation.programs.syntax import Gather, Program, Race, Send, Seq, Sleep, Step, Timeout, Wait

VERSIONS = 3


def aimed_plan(rng: random.Random) -> Plan:
    return rng.choice((contests, launches))(rng)


def contests(rng: random.Random) -> Plan:
    """Waits lose a race in the moment in which their event comes; then the same run waits for it again."""
    plan: list[AnyMove] = []
    for n in range(rng.randint(2, 5)):
        k, u = rng.randrange(KEYS), rng.randrange(USERS)
        plan.append(Begin(f"begin-{n}", _contest(rng, k), k, u))
        for m in range(rng.randint(1, 4)):
            if rng.random() < 0.5:
                plan.append(Pass(rng.choice((1, 1, 50, 500))))
            plan.append(Tell("go", f"go-{n}-{m}", k, u, rng.randrange(5)))
    return tuple(plan)


def _contest(rng: random.Random, k: int) -> Program:
    rounds: list[Program] = []
    for _ in range(rng.randint(1, 3)):
        ended = rng.choice((_raced, _timed))(rng, k)
        rounds.append(Seq((ended, Wait("go", rng.choice(("k", "u", "")), None, ms=60_000))))
    played = Seq(tuple(rounds))
    if rng.random() < 0.5:
        return played
    return Gather((played, *(Send("go", k, rng.randrange(USERS), n) for n in range(rng.randint(1, 3)))))


def _raced(rng: random.Random, k: int) -> Program:
    rivals: tuple[Program, ...] = (
        Step(took_ms=rng.choice((0, 1, 30, 500))),
        Sleep(rng.choice((1, 1, 500))),
        Wait("go", rng.choice(("u", "")), None, ms=60_000),
        Seq((Send("go", k), Step(took_ms=rng.choice((0, 1))))),
    )
    return Race(tuple(rng.sample((Wait("go", "k", None, ms=60_000), rng.choice(rivals)), 2)))


def _timed(rng: random.Random, k: int) -> Program:
    return Timeout(Seq((Wait("go", "k", None, ms=None), random_program(rng, 1))), rng.choice(SPANS_MS[:2]))


def launches(rng: random.Random) -> Plan:
    """New code comes while everything goes on that the versions define in different ways."""
    plan: list[AnyMove] = []
    names: tuple[Name, ...] = ("bought", "bought", "cart", "cart", "go", "stop")
    for n in range(rng.randint(15, 40)):
        draw = rng.random()
        if draw < 0.08 or n == 2:
            plan.append(Crash(rng.randrange(VERSIONS)))
        elif draw < 0.25:
            plan.append(Pass(rng.choice((1, 50, 50, 200, 1_000))))
        else:
            name = rng.choice(names)
            plan.append(Tell(name, f"{name}-{n}", rng.randrange(2), rng.randrange(2), rng.choice((1, 3))))
    return tuple(plan)


def parted(rng: random.Random) -> Plan:
    """While new code is deployed, events come that only it joins on."""
    plan: list[AnyMove] = []
    names: tuple[Name, ...] = ("bought", "bought", "cart", "cart", "go")
    for version in range(1, rng.randint(2, VERSIONS)):
        plan += [Begin(f"begin-{version}-{n}", _steps(rng), n) for n in range(rng.randint(1, KEYS))]
        plan.append(Crash(version))
        for n in range(rng.randint(20, 30)):
            name = rng.choice(names)
            plan.append(Pass(rng.choice((20, 100, 300))))
            plan.append(Tell(name, f"{name}-{version}-{n}", rng.randrange(2), rng.randrange(2), rng.choice((1, 3))))
    return tuple(plan)


def moves(rng: random.Random) -> Plan:
    """While pod after pod gets new code, runs are in the midst of their steps."""
    plan: list[AnyMove] = []
    for version in range(1, rng.randint(2, VERSIONS)):
        for n in range(rng.randint(5, 8)):
            if n == 1:
                plan.append(Crash(version))
            plan.append(Begin(f"begin-{version}-{n}", _steps(rng), rng.randrange(KEYS), rng.randrange(USERS)))
            plan += [Pass(rng.choice((100, 300, 1_000))) for _ in range(4)]
    return tuple(plan)


def _steps(rng: random.Random) -> Seq:
    return Seq(tuple(Step(took_ms=rng.choice((100, 300, 1_000))) for _ in range(rng.randint(5, 12))))
