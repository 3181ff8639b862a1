"""What the queues of every log must do; see `conformance`."""

import asyncio

import pytest

from perdure.log.protocol import Command, Commands, Log
from tests.log.tools import Bench, fetch_all


class Hands:
    """A member: it keeps what it was given until the test says done."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def __call__(self, command: Command) -> None:
        self.commands.append(command)

    @property
    def values(self) -> list[bytes]:
        return [command.value for command in self.commands]

    def done(self, *values: bytes) -> None:
        for command in self.commands:
            if command.value in values:
                command.done()

    async def until(self, count: int) -> list[bytes]:
        """Wait for so many commands, and give a later, wrong one the chance to come too."""
        await until(count, self)
        return self.values

    async def besides(self, *done: bytes, count: int) -> list[bytes]:
        """As `until`, of those that are not `done`: what was done before another was may come again."""
        async with asyncio.timeout(60):
            while len(found := [value for value in self.values if value not in done]) < count:
                await asyncio.sleep(0.001)
        return found


async def until(count: int, *members: Hands) -> None:
    """Wait until they have so many commands in all."""
    async with asyncio.timeout(60):
        while sum(len(one.commands) for one in members) < count:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)


def commands_of(log: Log) -> Commands:
    assert log.commands is not None
    return log.commands


def put(log: Log, *values: bytes, queue: str = "gpu", apart: bool = False) -> int:
    """All under one key, so that they come in order; `apart`: each under its own."""
    tickets = [commands_of(log).put(queue, value.decode() if apart else "key", value) for value in values]
    return tickets[-1]


def numbers(count: int) -> list[bytes]:
    return [b"%d" % index for index in range(count)]


class CommandConformance:
    async def test_a_member_is_given_what_was_put_and_what_comes(self, bench: Bench) -> None:
        log, hands = bench.log, Hands()
        await log.acknowledge(put(log, b"0", b"1"))
        commands_of(log).subscribe("gpu", hands, limit=10)
        assert hands.commands == []  # never from within `subscribe`
        put(log, b"2")
        assert await hands.until(3) == numbers(3)

    async def test_commands_share_the_tickets_of_records(self, bench: Bench) -> None:
        log, hands = bench.log, Hands()
        commands_of(log).subscribe("gpu", hands, limit=10)
        assert [log.append(0, b"a"), put(log, b"0"), log.append(0, b"b"), put(log, b"1")] == [1, 2, 3, 4]
        assert hands.commands == []
        await log.acknowledge(4)
        assert await hands.until(2) == numbers(2)
        assert [value for _, value in await fetch_all(log)] == [b"a", b"b"]

    async def test_queues_are_apart(self, bench: Bench) -> None:
        log, gpu, mail = bench.log, Hands(), Hands()
        put(log, b"0")
        put(log, b"1", queue="mail")
        commands_of(log).subscribe("mail", mail, limit=1)
        assert await mail.until(1) == [b"1"]
        commands_of(log).subscribe("gpu", gpu, limit=1)
        assert await gpu.until(1) == [b"0"]

    async def test_a_member_has_no_more_than_its_limit(self, bench: Bench) -> None:
        log, hands = bench.log, Hands()
        commands_of(log).subscribe("gpu", hands, limit=2)
        put(log, *numbers(5))
        assert await hands.until(2) == numbers(2)
        hands.done(b"1")  # in any order
        assert await hands.until(3) == numbers(3)
        hands.done(b"1")  # once is enough
        assert await hands.until(3) == numbers(3)
        hands.done(b"0", b"2")
        assert await hands.until(5) == numbers(5)

    async def test_members_share_the_work(self, bench: Bench) -> None:
        """Nothing is left, and twice is given only what changed hands meanwhile."""
        log, first, second = bench.log, Hands(), Hands()
        commands_of(log).subscribe("gpu", first, limit=5)
        commands_of(log).subscribe("gpu", second, limit=5)
        count = 50
        await log.acknowledge(put(log, *numbers(count), apart=True))
        async with asyncio.timeout(60):
            while len({*first.values, *second.values}) < count:
                await asyncio.sleep(0.001)
                first.done(*first.values)
                second.done(*second.values)
        assert log.shared or len(first.values + second.values) == count

    async def test_what_a_member_leaves_goes_to_another(self, bench: Bench) -> None:
        log, first, second = bench.log, Hands(), Hands()
        reader = commands_of(log).subscribe("gpu", first, limit=3)
        put(log, *numbers(4))
        assert await first.until(3) == numbers(3)
        first.done(b"1")
        assert await first.until(4) == numbers(4)
        reader.close()
        reader.close()
        first.done(b"0")  # too late: others may have it
        commands_of(log).subscribe("gpu", second, limit=10)
        assert await second.besides(b"1", count=3) == [b"0", b"2", b"3"]
        assert await first.until(4) == numbers(4)

    async def test_a_member_that_fails_is_closed_and_the_others_go_on(self, bench: Bench) -> None:
        log, hands = bench.log, Hands()
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["message"])))

        def fail(command: Command) -> None:
            raise ValueError("broken")

        commands_of(log).subscribe("gpu", fail, limit=1)
        await log.acknowledge(put(log, b"0"))
        commands_of(log).subscribe("gpu", hands, limit=1)
        assert await hands.until(1) == [b"0"]
        assert told == ["a member of queue 'gpu' stopped"]

    @pytest.mark.parametrize("odd", [b"", b"\n", b"a\nb\0", b"x" * 1_000_000], ids=["empty", "line", "lines", "long"])
    async def test_any_command_comes_back(self, bench: Bench, odd: bytes) -> None:
        log, hands = bench.log, Hands()
        await log.acknowledge(commands_of(log).put("gpu", "key", odd))
        log = await bench.reopen()
        commands_of(log).subscribe("gpu", hands, limit=1)
        assert await hands.until(1) == [odd]

    @pytest.mark.parametrize("how", ["reopen", "crash"])
    async def test_the_next_process_gets_what_was_not_done(self, bench: Bench, how: str) -> None:
        log, hands = bench.log, Hands()
        commands_of(log).subscribe("gpu", hands, limit=3)
        await log.acknowledge(put(log, *numbers(5)))
        await hands.until(3)
        hands.done(b"0", b"2")
        await log.acknowledge(log.append(0, b"after"))
        log = await (bench.reopen() if how == "reopen" else bench.crash())
        again = Hands()
        commands_of(log).subscribe("gpu", again, limit=10)
        # Of a shared log the word that a command is done may die with who says it.
        done = (b"0", b"2") if log.shared else (b"2",)
        assert await again.besides(*done, count=3) == [b"1", b"3", b"4"]

    async def test_what_is_done_goes_no_sooner_than_what_came_before_it(self, bench: Bench) -> None:
        """A step's outcome is appended, then its command is done: a crash may not take the one without the other."""
        log, hands = bench.log, Hands()
        commands_of(log).subscribe("gpu", hands, limit=1)
        await log.acknowledge(put(log, b"0"))
        await hands.until(1)
        outcome = b"outcome of 0"
        log.append(0, outcome)
        hands.done(b"0")
        log = await bench.crash()
        again = Hands()
        commands_of(log).subscribe("gpu", again, limit=1)
        await asyncio.sleep(0.02)
        assert again.values == [b"0"] or outcome in [value for _, value in await fetch_all(log)]

    async def test_places_are_not_given_twice(self, bench: Bench) -> None:
        log = bench.log
        for round in range(3):
            hands = Hands()
            reader = commands_of(log).subscribe("gpu", hands, limit=2)
            await log.acknowledge(put(log, b"%d a" % round, b"%d b" % round))
            assert await hands.until(2) == [b"%d a" % round, b"%d b" % round]
            hands.done(*hands.values)
            reader.close()
            log = await bench.reopen()
