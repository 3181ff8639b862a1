"""Where an entity lives, and how runs get their ids. The engine's own hash: clients of a broker disagree on theirs."""

from hashlib import blake2b

from xxhash import xxh3_64_intdigest

_ROUTE_DIGITS = 4
_RUN_ID_LENGTH = _ROUTE_DIGITS + 32


def partition_of(entity: str, partitions: int) -> int:
    """Partition of an event id, a join key or a schedule."""
    return xxh3_64_intdigest(entity.encode()) % partitions


def run_id(*parts: str) -> str:
    """A run's id from what it is for: the same parts give the same run, so that asking twice starts one.

    Four hex digits of routing, then blake2b-128 of the parts.
    """
    name = blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
    return f"{xxh3_64_intdigest(name.encode()) & 0xFFFF:04x}{name}"


def partition_of_run(run: str, partitions: int) -> int:
    """Partition of a run: its id carries its routing. Raises ValueError if `run` is not a run id."""
    if len(run) != _RUN_ID_LENGTH:
        raise ValueError(f"{run!r} is not a run id: those have {_RUN_ID_LENGTH} hex digits")
    return int(run[:_ROUTE_DIGITS], 16) % partitions
