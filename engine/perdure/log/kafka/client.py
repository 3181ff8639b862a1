"""aiokafka as this log uses it: its objects by protocols, and the settings that all of them share.

The library is imported when a Kafka log is opened, not before.
"""

import asyncio
import importlib
import ssl
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, Protocol, cast

from xxhash import xxh3_64_intdigest

from perdure.errors import LogError
from perdure.log.kafka.address import Address

REQUEST_MS = 10_000
"""An answer that takes longer is one that was lost."""
BATCH_BYTES = 1 << 20
REQUEST_BYTES = 8 << 20
RECORD_BYTES = REQUEST_BYTES // 2
"""A larger record is refused: the brokers would."""
STOP_SECONDS = 5.0
_CANCEL_SECONDS = 10.0
"""Longer than any task of ours takes to end."""
_BEGUN_SECONDS = 5.0
"""How long who is cancelled waits for a client that is just beginning."""
FETCH_WAIT_MS = 200
"""How long a broker holds back a fetch while there is nothing new; what comes meanwhile is sent at once."""


class Partition(Protocol):
    """A partition of a topic; made by `partition_in`."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    def __hash__(self) -> int: ...


class Record(Protocol):
    """A record that was read."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Appended(Protocol):
    """What the brokers say of a batch that they have."""

    offset: int
    timestamp: int


class BatchBuilder(Protocol):
    def append(self, *, timestamp: int | None, key: bytes | None, value: bytes | None) -> object | None: ...


class Producer(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def create_batch(self) -> BatchBuilder: ...
    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "Any": ...
    async def begin_transaction(self) -> None: ...
    async def commit_transaction(self) -> None: ...


class Consumer(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def assign(self, partitions: Sequence[Partition]) -> None: ...
    def assignment(self) -> frozenset[Partition]: ...
    def subscribe(self, topics: Sequence[str], *, listener: object) -> None: ...
    def seek(self, partition: Partition, offset: int) -> None: ...
    def pause(self, *partitions: Partition) -> None: ...
    def resume(self, *partitions: Partition) -> None: ...
    async def position(self, partition: Partition) -> int: ...
    async def getmany(
        self, *partitions: Partition, timeout_ms: int, max_records: int | None = None
    ) -> Mapping[Partition, Sequence[Record]]: ...
    async def beginning_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]: ...
    async def end_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]: ...
    async def commit(self, offsets: Mapping[Partition, int]) -> None: ...
    async def committed(self, partition: Partition) -> int | None: ...


class Client:
    """Makes what speaks to the brokers."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._library = _library("aiokafka")
        self._shared: dict[str, Any] = {
            "bootstrap_servers": list(address.servers),
            "request_timeout_ms": REQUEST_MS,
            "retry_backoff_ms": 50,
            **_security(address.client),
        }

    def producer(self, transactional_id: str | None = None) -> Producer:
        made = self._library.AIOKafkaProducer(
            **self._shared,
            acks="all",
            enable_idempotence=True,
            transactional_id=transactional_id,
            max_batch_size=REQUEST_BYTES,
            max_request_size=REQUEST_BYTES,
        )
        return cast("Producer", made)

    def consumer(self, **settings: Any) -> Consumer:
        made = self._library.AIOKafkaConsumer(
            **self._shared,
            **{
                "auto_offset_reset": "none",
                "enable_auto_commit": False,
                "fetch_max_wait_ms": FETCH_WAIT_MS,
                "max_partition_fetch_bytes": REQUEST_BYTES,
                **settings,
            },
        )
        return cast("Consumer", made)

    def member(self, group: str, **settings: Any) -> Consumer:
        """Of a group, as all of ours are."""
        session_ms = self.address.session_ms
        return self.consumer(
            group_id=group,
            auto_offset_reset="earliest",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=max(100, session_ms // 4),
            # It may not poll for long, and must not be taken for one that hangs.
            max_poll_interval_ms=1 << 30,
            **settings,
        )

    def admin(self) -> Any:
        return admin().AIOKafkaAdminClient(**self._shared)

    def sticky(self) -> object:
        return _library("aiokafka.coordinator.assignors.sticky.sticky_assignor").StickyPartitionAssignor


def partition_in(topic: str, partition: int) -> Partition:
    return cast("Partition", structs().TopicPartition(topic, partition))


def listener() -> type[Any]:
    """The base class of who is told of rebalances."""
    return cast("type[Any]", _library("aiokafka").ConsumerRebalanceListener)


def spread(key: str, partitions: int) -> int:
    """The partition of a key: the same in every process, whatever client library it has."""
    return xxh3_64_intdigest(key.encode()) % partitions


def admin() -> Any:
    """What topics are made of."""
    return _library("aiokafka.admin")


def errors() -> Any:
    """aiokafka's exceptions."""
    return _library("aiokafka.errors")


def structs() -> Any:
    return _library("aiokafka.structs")


@contextmanager
def explained() -> Generator[None]:
    """What goes wrong with the brokers, as the log says it: they are away, or it is trimmed. It may be tried again."""
    try:
        yield
    except errors().OffsetOutOfRangeError as error:
        raise IndexError(f"{error}: the log was trimmed") from error
    except (errors().KafkaError, TimeoutError) as error:
        raise LogError(f"Kafka does not answer at present: {error!r}") from error


async def begin(made: Consumer | Producer) -> None:
    """`start` of aiokafka, cancelled, may forget a connection that it has opened: so it is let come to its end."""
    starting = spawn(made.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting}, timeout=_BEGUN_SECONDS)
        if starting.done() and not starting.cancelled():
            starting.exception()
        raise


async def stop(made: Consumer | Producer) -> None:
    """Whatever comes of it: brokers may be away."""
    await close(made.stop())


async def close(closing: Coroutine[Any, Any, None]) -> None:
    """Of something of aiokafka. It gets a while, also from who is cancelled: it may wait for brokers that are away.

    In a task of its own, since it swallows a cancel of who waits for it, and a timeout's with that.
    """
    task = spawn(closing)
    task.add_done_callback(unasked)
    try:
        await asyncio.wait({task}, timeout=STOP_SECONDS)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=STOP_SECONDS)
        raise
    finally:
        task.cancel()


async def end(task: "asyncio.Task[None]") -> None:
    """Cancel it, if nobody has, until it has ended; raises its error. A cancel that is swallowed leaves a loop."""
    while not task.done():
        if not task.cancelling():
            task.cancel()
        if not (await asyncio.wait({task}, timeout=_CANCEL_SECONDS))[0]:
            task.uncancel()
    if not task.cancelled():
        task.result()


def unasked(answer: "asyncio.Future[Any]") -> None:
    """What became of it is nobody's concern; an error that nobody asks for would be shown as one."""
    if not answer.cancelled():
        answer.exception()


def spawn(coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """A task in an empty context: it belongs to the log, not to the run that happened to ask for it."""
    return Context().run(asyncio.get_running_loop().create_task, coroutine)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LogError("a log on Kafka needs aiokafka: pip install 'perdure[kafka]'") from error


def _security(given: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {name: value for name, value in given.items() if not name.startswith("ssl_")}
    if "SSL" in given.get("security_protocol", ""):
        context = ssl.create_default_context(cafile=given.get("ssl_cafile"))
        with suppress(KeyError):
            context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"), given.get("ssl_password"))
        settings["ssl_context"] = context
    return settings
