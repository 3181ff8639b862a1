"""Logs to copy into: empty, and refused by engines until all is there.

A folder is made beside its own name (`log.copying`), which it gets at the end. Topics cannot be renamed: one more,
`<ns>.<app>.copying`, is there for as long as the others are not whole. Whoever finds what is left of a copy that was
stopped begins anew; while it is under way nobody else writes there: the folder is locked, and who makes the topics is
the only member of the group that has the name of that one more topic.
"""

import shutil
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from perdure.cli.sharing import shown
from perdure.errors import LogError, LogInUse, LogMismatch
from perdure.log.directory import Lock, sync_directory
from perdure.log.embedded import EmbeddedLog
from perdure.log.kafka import KafkaLog, parse
from perdure.log.kafka.claim import claimed
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics, half_of, wanted_of
from perdure.log.protocol import Log


@asynccontextmanager
async def new_log(url: str, app: str, partitions: int) -> AsyncGenerator[Log]:
    """Whole once the block has ended well. Raises `LogMismatch` if there is something already, `LogError`."""
    making = _topics(url, app, partitions) if url.startswith("kafka://") else _folder(folder_of(url), partitions)
    async with making as log:
        try:
            yield log
        except LogError as error:
            raise type(error)(f"{error}. {half_is_there(url)}") from error


def half_is_there(url: str) -> str:
    return f"Of {shown(url)} only a part is there, which engines refuse; the same command begins anew"


def folder_of(url: str) -> Path:
    return Path(url.removeprefix("embedded://").partition("?")[0]).resolve()


def _half_of(folder: Path) -> Path:
    """Where the copy is made; nothing is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LogMismatch(f"{folder} is not empty: a copy needs a folder of its own; name one that is not there yet")
    half = folder.with_name(f"{folder.name}.copying")
    if half.exists():
        lock = Lock(half)  # whoever has it is at work there
        shutil.rmtree(half)
        lock.release()
    return half


@asynccontextmanager
async def _folder(folder: Path, partitions: int) -> AsyncGenerator[Log]:
    half = _half_of(folder)
    log = EmbeddedLog(half, partitions)
    await log.open()
    try:
        yield log
    finally:
        await log.close()
    half.rename(folder)
    sync_directory(folder.parent)


@asynccontextmanager
async def _topics(url: str, app: str, partitions: int) -> AsyncGenerator[Log]:
    address = replace(parse(url), create=True)
    client = Client(address)
    topics = Topics(client)
    own = [topic for topic, (kind, _) in wanted_of(address, app, partitions).items() if kind != "events"]
    half = half_of(address, app)
    left = half in await topics.names()
    if not left:
        await _refuse_used(topics, own, app, partitions)
        await topics.mark(half)
    what = f"a copy into {shown(url)}"
    async with claimed(client, half, what):
        there = await topics.names()
        if half not in there:
            raise LogInUse(f"{what} has just come to its end")
        if left:
            await topics.delete([topic for topic in own if topic in there])
        log = KafkaLog(address, app, partitions, stores=False, half=True)
        await log.open()
        try:
            yield log
            # What others wrote to the topic of events before is not for this app, as for any that comes to a namespace.
            await log.events.begin_here()
        finally:
            await log.close()
        await topics.delete([half])
    # Brokers that make topics by themselves made it again if our own member of its group asked about it meanwhile.
    await topics.delete([half])


async def _refuse_used(topics: Topics, own: Collection[str], app: str, partitions: int) -> None:
    for topic, bounds in (await topics.bounds_of(own)).items():
        if any(end for _, end in bounds.values()):
            raise LogMismatch(
                f"topic {topic} has records already: a copy needs a namespace in which app {app!r} has never been; "
                "name another one in the URL, kafka://HOST:PORT/NAMESPACE"
            )
        if len(bounds) != partitions:
            raise LogMismatch(
                f"topic {topic} has {len(bounds)} partitions, and what is to be copied has {partitions}: a copy keeps "
                "the number, since a run's id says where it lives; delete the empty topics, or name another namespace"
            )
