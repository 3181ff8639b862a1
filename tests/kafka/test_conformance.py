"""The log on a real Apache Kafka does what every log must."""

from collections.abc import AsyncGenerator
from pathlib import Path
from uuid import uuid4

import pytest

from perdure.log.kafka.address import Address, parse
from perdure.log.kafka.client import Client
from perdure.log.kafka.log import KafkaLog
from perdure.log.kafka.topics import Topics
from perdure.log.protocol import Log
from tests.log.conformance import Conformance


class KafkaBench:
    """Topics of its own, and a pod's next lives on one disk."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.log: Log = self.next()

    def next(self) -> Log:
        self.log = self.kafka = KafkaLog(self.address, "shop", partitions=2)
        return self.log

    async def reopen(self) -> Log:
        await self.kafka.close()
        await self.next().open()
        return self.log

    async def crash(self) -> Log:
        await self.kafka.abandon()
        await self.next().open()
        return self.log


class TestKafka(Conformance):
    @pytest.fixture
    async def bench(self, kafka: str, tmp_path: Path) -> AsyncGenerator[KafkaBench]:
        bench = KafkaBench(parse(f"kafka://{kafka}/test-{uuid4().hex[:12]}?session=1s&data={tmp_path}"))
        await bench.log.open()
        yield bench
        await bench.log.close()
        await Topics(Client(bench.address)).delete_all()
