"""Where an entity lives, and how runs get their ids. The engine's own hash: clients of a broker disagree on theirs."""

import re
from hashlib import blake2b

from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

_ROUTE_DIGITS = 4
RUN_ID_LENGTH = _ROUTE_DIGITS + 32
_RUN_ID = re.compile(f"[0-9a-f]{{{RUN_ID_LENGTH}}}")


def partition_of(entity: str, partitions: int) -> int:
    """Partition of an event id, a join key or a schedule."""
    return xxh3_64_intdigest(entity.encode()) % partitions


def run_id(*parts: str) -> str:
    """A run's id from what it is for: the same parts give the same run, so that asking twice starts one.

    Four hex digits of routing, then blake2b-128 of the parts.
    """
    name = blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
    return xxh3_64_hexdigest(name.encode())[-_ROUTE_DIGITS:] + name


def is_run_id(text: str) -> bool:
    """Whether this could be a run's id: user code may ask for any text."""
    return _RUN_ID.fullmatch(text) is not None


def partition_of_run(run: str, partitions: int) -> int:
    """Partition of a run: its id carries its routing. Raises ValueError if `run` is not a run id."""
    if not is_run_id(run):
        raise ValueError(f"{run!r} is not a run id: those have {RUN_ID_LENGTH} hex digits")
    return route_of(run, partitions)


def route_of(run: str, partitions: int) -> int:
    """`partition_of_run` for what is known to be a run id."""
    return int(run[:_ROUTE_DIGITS], 16) % partitions
