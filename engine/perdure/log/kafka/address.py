"""What a `kafka://` URL says.

    kafka://broker-1:9092,broker-2:9092/perdure?replication=3&sasl_mechanism=PLAIN&sasl_plain_username=…
            └─ any of the brokers ────┘ └ namespace

Everything after `?` is either of ours (`OURS`) or a setting of the client library, passed through (`PASSED`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, LogError

NAMESPACE = "perdure"
PASSED = frozenset({
    "security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password", "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password", "client_id",
})  # fmt: skip
OURS = frozenset({"data", "replication", "retention", "session", "create"})
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
RETENTION_MS = 7 * 86_400_000
SESSION_MS = 10_000


@dataclass(frozen=True)
class Address:
    """Where the brokers are, how to speak to them, and what topics that are made are like."""

    servers: tuple[str, ...]
    namespace: str = NAMESPACE
    replication: int = 0
    """Copies of each record; 0 leaves it to the brokers."""
    retention_ms: int | None = RETENTION_MS
    """How long people find in the journal what the engine needs no more."""
    session_ms: int = SESSION_MS
    """A pod that the brokers have not heard of for so long has lost its partitions."""
    create: bool = True
    """Topics that are missing are made."""
    data: str = ".perdure"
    """The folder of this pod's own disk under which state is kept."""
    client: Mapping[str, str] = field(default_factory=dict[str, str])

    def topic(self, *names: str) -> str:
        return ".".join((self.namespace, *names))


def parse(url: str) -> Address:
    """Raises `LogError`, which says what is wrong and what would be right."""
    rest = url.removeprefix("kafka://")
    place, _, query = rest.partition("?")
    hosts, _, namespace = place.partition("/")
    servers = tuple(host for host in hosts.split(",") if host)
    if not servers:
        raise LogError(f"{url!r} names no broker: say kafka://localhost:9092")
    namespace = unquote(namespace.strip("/")) or NAMESPACE
    if not _NAME.issuperset(namespace):
        raise LogError(f"namespace {namespace!r}: topics have letters, digits, '.', '_' and '-' in their names only")
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(given) - PASSED - OURS)
    if unknown:
        raise LogError(f"a Kafka log has no setting {unknown[0]!r}; there are {', '.join(sorted(OURS | PASSED))}")
    return Address(
        tuple(host if ":" in host else f"{host}:9092" for host in servers),
        namespace,
        _number("replication", given.get("replication", "0")),
        _retention_ms(given.get("retention")),
        _duration_ms("session", given["session"]) if "session" in given else SESSION_MS,
        given.get("create", "yes") != "no",
        given.get("data") or ".perdure",
        {name: value for name, value in given.items() if name in PASSED},
    )


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise LogError(f"{name}={value}: give a number")
    return int(value)


def _retention_ms(value: str | None) -> int | None:
    if value is None:
        return RETENTION_MS
    return None if value == "forever" else _duration_ms("retention", value)


def _duration_ms(name: str, value: str) -> int:
    try:
        return parse_ms(value, what=name, positive=True)
    except DefinitionError as error:
        raise LogError(str(error)) from error
