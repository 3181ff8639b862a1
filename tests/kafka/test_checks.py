"""What topics that others made must be like: refused, said, or fine."""

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from perdure.errors import LogMismatch
from perdure.log.kafka import KafkaLog, parse, topics
from perdure.log.kafka.checks import Described, must_be, refusal, warnings, weak
from perdure.log.kafka.client import Client, admin
from perdure.log.kafka.topics import settings_of
from tests.system.engine_process import environment

KINDS = ("journal", "snapshots", "commands", "logs", "dead-letters", "events")
SAFE = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}


def described(kind: str, copies: int = 3, changed: Mapping[str, str] | None = None) -> Described:
    """As Perdure makes it, but for what is `changed`."""
    return Described(kind, copies, settings_of(kind, 86_400_000) | SAFE | dict(changed or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_what_perdure_makes_is_fine(kind: str) -> None:
    assert not must_be(described(kind))
    assert not weak(described(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_that_nobody_may_look_at_is_taken_for_right(kind: str) -> None:
    assert not must_be(Described(kind, 3, {}))


@pytest.mark.parametrize(
    ("kind", "setting", "value", "right"),
    [
        ("journal", "message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("events", "message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("journal", "cleanup.policy", "compact", "delete"),
        ("journal", "cleanup.policy", "compact,delete", "delete"),
        ("events", "cleanup.policy", "compact", "delete"),
        ("commands", "cleanup.policy", "compact", "delete"),
        ("snapshots", "cleanup.policy", "delete", "compact"),
        ("snapshots", "cleanup.policy", "compact,delete", "compact"),
        ("journal", "retention.ms", "604800000", "-1"),
        ("journal", "retention.bytes", "1000000", "-1"),
        ("journal", "max.message.bytes", "1048588", "8388608"),
        ("snapshots", "max.message.bytes", "1048588", "8388608"),
        ("logs", "min.insync.replicas", "4", "2"),
    ],
)
def test_what_breaks_a_promise_is_refused(kind: str, setting: str, value: str, right: str) -> None:
    topic = described(kind, changed={setting: value})
    assert {name: found[0] for name, found in must_be(topic).items()} == {setting: right}
    text = refusal({"perdure.t": topic}, "b1:9092,b2:9092")
    assert f"perdure.t has {setting}={value}, and needs {right}: " in text
    assert "--bootstrap-server b1:9092,b2:9092 " in text
    assert text.endswith(f"--entity-name perdure.t --add-config {setting}={right}")


@pytest.mark.parametrize(
    ("copies", "changed", "words"),
    [
        (1, {"min.insync.replicas": "1"}, "one copy"),
        (3, {"min.insync.replicas": "1"}, "may stand on one broker alone"),
        (2, {}, "each broker that is away stops it"),
        (3, {"unclean.leader.election.enable": "true"}, "acknowledged records may be lost"),
    ],
)
def test_what_is_weak_is_said(copies: int, changed: dict[str, str], words: str) -> None:
    topic = described("journal", copies, changed)
    assert not must_be(topic)
    (said,) = weak(topic)
    assert words in said
    assert warnings({"a": topic, "b": topic}) == [f"a, b: each {said}"]
    assert warnings({"a": topic, "b": described("events")}) == [f"a {said}"]


def test_events_of_others_may_be_small_and_kept_for_any_time() -> None:
    topic = described("events", 3, {"max.message.bytes": "1048588", "retention.ms": "3600000"})
    assert not must_be(topic)
    (said,) = weak(topic)
    assert "small max.message.bytes" in said


@pytest.fixture
def url(kafka: str) -> str:
    return f"kafka://{kafka}/test-{uuid4().hex[:12]}"


async def make(url: str, topic: str, partitions: int, settings: Mapping[str, str]) -> None:
    async with administered(url) as client:
        new = admin().NewTopic(
            name=topic, num_partitions=partitions, replication_factor=1, topic_configs=dict(settings)
        )
        await client.create_topics([new])


@asynccontextmanager
async def administered(url: str) -> AsyncGenerator[Any]:
    client = Client(parse(url)).admin()
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def opened(url: str) -> None:
    log = KafkaLog(parse(url), "shop", 2, stores=False)
    await log.open()
    await log.close()


async def test_an_ordinary_topic_is_no_journal(url: str) -> None:
    """A topic as a tool makes it, with no setting at all."""
    journal = parse(url).topic("shop", "journal")
    await make(url, journal, 2, {})
    with pytest.raises(LogMismatch) as refused:
        await opened(url)
    text = str(refused.value)
    for setting in ("message.timestamp.type=LogAppendTime", "retention.ms=-1", "max.message.bytes=8388608"):
        assert setting in text.splitlines()[-1]
    assert f"--entity-name {journal} " in text
    assert "cleanup.policy" not in text


async def test_what_was_set_right_as_the_error_says_is_taken(url: str) -> None:
    journal = parse(url).topic("shop", "journal")
    await make(url, journal, 2, {})
    with pytest.raises(LogMismatch) as refused:
        await opened(url)
    said = str(refused.value).splitlines()[-1].partition("--add-config ")[2]
    settings = dict(pair.split("=") for pair in said.split(","))
    async with administered(url) as client:
        config = admin().config_resource
        await client.alter_configs([config.ConfigResource(config.ConfigResourceType.TOPIC, journal, settings)])
    await opened(url)


async def test_a_compacted_journal_and_snapshots_that_are_deleted(url: str) -> None:
    address = parse(url)
    journal, snapshots = address.topic("shop", "journal"), address.topic("shop", "snapshots")
    await make(url, journal, 2, settings_of("journal", None) | {"cleanup.policy": "compact"})
    await make(url, snapshots, 2, settings_of("snapshots", None) | {"cleanup.policy": "delete"})
    with pytest.raises(LogMismatch) as refused:
        await opened(url)
    assert f"topic {journal} has cleanup.policy=compact, and needs delete" in str(refused.value)
    assert f"topic {snapshots} has cleanup.policy=delete, and needs compact" in str(refused.value)
    assert str(refused.value).count("kafka-configs.sh") == 2


async def test_snapshots_with_other_partitions_are_refused(url: str) -> None:
    await make(url, parse(url).topic("shop", "snapshots"), 3, settings_of("snapshots", None))
    with pytest.raises(LogMismatch, match="snapshots has 3 partitions, and 2 were asked for"):
        await opened(url)


async def test_weakness_is_said_once_at_a_start(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """One broker keeps one copy."""
    with caplog.at_level(logging.WARNING, "perdure.log.kafka"):
        log = KafkaLog(parse(url), "shop", 2, stores=False)
        await log.open()
        await log.close()
        said = [record.getMessage() for record in caplog.records if "copy of each record" in record.getMessage()]
        assert len(said) == 1
        assert parse(url).topic("shop", "journal") in said[0]


async def test_settings_that_nobody_may_look_at_are_named(caplog: pytest.LogCaptureFixture) -> None:
    class Admin:
        async def describe_configs(self, asked: object) -> list[SimpleNamespace]:
            return [SimpleNamespace(resources=[(29, "", 2, "perdure.shop.journal", [])])]

        async def describe_topics(self, topics: list[str]) -> list[Any]:
            return [{"topic": topic, "partitions": [{"replicas": [1, 2, 3]}]} for topic in topics]

    found = await topics.__dict__["_described"](Admin(), {"perdure.shop.journal": "journal"})
    assert found == {"perdure.shop.journal": Described("journal", 3, {})}
    assert "perdure.shop.journal are not checked" in caplog.text
    assert "TopicAuthorizationFailed" in caplog.text


@pytest.mark.parametrize("command", [["topics", "create", "shop"], ["worker", "shop:app"], ["gateway", "shop:app"]])
async def test_every_role_refuses_such_topics(url: str, tmp_path: Path, command: list[str]) -> None:
    tmp_path.joinpath("shop.py").write_text("from perdure import App\napp = App('shop')\n")
    await make(url, parse(url).topic("shop", "journal"), 2, settings_of("journal", None) | {"retention.ms": "86400000"})
    refused = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure", *command, "--log", url), cwd=tmp_path, env=environment(), stderr=PIPE
    )
    _, said = await refused.communicate()
    assert refused.returncode == 5, said
    assert b"--add-config retention.ms=-1" in said
