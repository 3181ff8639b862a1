"""What topics that others made must be like, and what is wrong or weak with them.

What would break a promise is refused; what only makes a loss likelier is said, once at each start:

setting                  refused, since                                              topics
-----------------------  ----------------------------------------------------------  ----------------------------------
message.timestamp.type   CreateTime: time would be what a producer says              journal, events
cleanup.policy           compaction takes away what is needed still                  all but snapshots
                         anything else takes away state that nobody changes          snapshots
retention.ms, .bytes     brokers delete what only the owner knows to be needed       journal
max.message.bytes        a record that fits nowhere would be sent for ever           journal, snapshots, commands
min.insync.replicas      more than there are copies: nothing is ever written         all
"""

from collections.abc import Mapping
from typing import NamedTuple

from perdure.log.kafka.client import BATCH_BYTES, RECORD_BYTES, REQUEST_BYTES

_HEADERS_BYTES = 64 << 10
"""What a batch adds to its records, at most."""
LOOKED_AT = (
    "cleanup.policy", "message.timestamp.type", "retention.ms", "retention.bytes", "max.message.bytes",
    "min.insync.replicas", "unclean.leader.election.enable",
)  # fmt: skip


class Described(NamedTuple):
    """A topic as the brokers have it. `copies`: of the partition that has the fewest."""

    kind: str
    copies: int
    settings: Mapping[str, str]


def must_be(topic: Described) -> dict[str, tuple[str, str]]:
    """Setting → what it must be, and why; of those that are otherwise."""
    found: dict[str, tuple[str, str]] = {}
    kind, settings = topic.kind, topic.settings

    def insist(name: str, value: str, why: str) -> None:
        if settings.get(name, value) != value:
            found[name] = value, why

    if kind in ("journal", "events"):
        insist("message.timestamp.type", "LogAppendTime", "the brokers' clock is the only time there is")
    if kind == "snapshots":
        insist("cleanup.policy", "compact", "state that has not changed for long would be deleted")
    else:
        insist("cleanup.policy", "delete", "records that are needed would be compacted away, or refused")
    if kind == "journal":
        for name in ("retention.ms", "retention.bytes"):
            insist(name, "-1", "only its owner knows what is needed no more, and trims it")
    if kind in ("journal", "snapshots", "commands") and _number(topic, "max.message.bytes", REQUEST_BYTES) < _LEAST:
        found["max.message.bytes"] = str(REQUEST_BYTES), f"records have up to {RECORD_BYTES:,} bytes"
    if _number(topic, "min.insync.replicas", 1) > topic.copies:
        wanted = str(max(1, topic.copies - 1))
        found["min.insync.replicas"] = wanted, f"there are {topic.copies} copies, so nothing is ever written"
    return found


_LEAST = RECORD_BYTES + _HEADERS_BYTES


def weak(topic: Described) -> list[str]:
    """What makes a loss, or a stop, likelier than it need be."""
    found: list[str] = []
    least = _number(topic, "min.insync.replicas", 1)
    if topic.copies == 1:
        found.append("has one copy of each record: a broker's disk that is lost takes them with it")
    elif least == 1:
        found.append("has min.insync.replicas=1: what is acknowledged may stand on one broker alone; say 2")
    elif least == topic.copies:
        found.append(f"has min.insync.replicas={least} of {topic.copies} copies: each broker that is away stops it")
    if topic.settings.get("unclean.leader.election.enable") == "true":
        found.append("has unclean.leader.election.enable=true: acknowledged records may be lost; say false")
    if topic.kind == "events" and _number(topic, "max.message.bytes", REQUEST_BYTES) < BATCH_BYTES + _HEADERS_BYTES:
        found.append(f"has a small max.message.bytes: many events at a time are not taken; say {REQUEST_BYTES}")
    return found


def _number(topic: Described, name: str, default: int) -> int:
    return int(topic.settings.get(name, default))


def refusal(topics: Mapping[str, Described], servers: str) -> str:
    """What is wrong, and the commands that set it right; empty if nothing is."""
    lines: list[str] = []
    for name, topic in topics.items():
        wrong = must_be(topic)
        if not wrong:
            continue
        lines += [
            f"topic {name} has {setting}={topic.settings.get(setting)}, and needs {value}: {why}"
            for setting, (value, why) in wrong.items()
        ]
        settings = ",".join(f"{setting}={value}" for setting, (value, _) in wrong.items())
        lines.append(
            f"  kafka-configs.sh --bootstrap-server {servers} --alter --entity-type topics --entity-name {name} "
            f"--add-config {settings}"
        )
    return "\n".join(lines)


def warnings(topics: Mapping[str, Described]) -> list[str]:
    """Each weakness with the topics that have it."""
    found: dict[str, list[str]] = {}
    for name, topic in topics.items():
        for weakness in weak(topic):
            found.setdefault(weakness, []).append(name)
    return [
        f"{', '.join(names)}: each {what}" if len(names) > 1 else f"{names[0]} {what}" for what, names in found.items()
    ]
