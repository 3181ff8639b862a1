"""Who may send us webhooks, and the event that each of their deliveries becomes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import msgspec
from msgspec import Raw, Struct

from perdure.errors import DefinitionError, PayloadError
from perdure.flow.patterns import RESERVED, check_event_name
from perdure.sdk.event_input import check_event_id
from perdure.sdk.json_guard import compact
from perdure_connectors.webhook import github, standard, stripe
from perdure_connectors.webhook.checking import SignatureRefused
from perdure_schemas.event import EventBody

Kind = Literal["github", "stripe", "standard"]
KINDS: tuple[str, ...] = get_args(Kind)
ANY = "*"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Headers(Protocol):
    """Of a request. Names in lower case."""

    def getlist(self, key: str) -> list[str]: ...


class _Envelope(Struct):
    """What of a body says which delivery it is."""

    id: str = ""
    type: str = ""


_envelope = msgspec.json.Decoder(_Envelope).decode


@dataclass(frozen=True)
class Source:
    """A sender: `POST /w/{name}`, signed by one of `secrets` as `kind` has it.

    `event`: the name of the events; or which name an event of each of the sender's types has (`"*"`: all others), where
    types that are not listed are acknowledged and dropped. Without it, `name/type`: `github/push`.
    """

    name: str
    kind: Kind
    secrets: Sequence[bytes]
    event: str | Mapping[str, str] = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or f"{self.name}/" == RESERVED:
            raise DefinitionError(f"webhook source {self.name!r}: letters, digits, '-' and '_'; it stands in the URL")
        if self.kind not in KINDS:
            raise DefinitionError(f"webhook source {self.name!r}: kind {self.kind!r} is none of {', '.join(KINDS)}")
        if not self.secrets or not all(self.secrets):
            raise DefinitionError(f"webhook source {self.name!r} has no secret: who sends could be anybody")
        for name in [self.event] if isinstance(self.event, str) else self.event.values():
            if name:
                _event_name(name)

    def verify(self, headers: Headers, body: bytes, now: float) -> None:
        """Raises `SignatureRefused` unless who knows a secret has signed this body, byte by byte."""

        def header(name: str) -> str:
            return _single(headers, name)

        if self.kind == "github":
            github.verify(header(github.SIGNATURE_HEADER), body, self.secrets)
        elif self.kind == "stripe":
            stripe.verify(header(stripe.SIGNATURE_HEADER), body, self.secrets, now=now)
        else:
            id, time = header(standard.ID_HEADER), header(standard.TIME_HEADER)
            standard.verify(id, time, header(standard.SIGNATURE_HEADER), body, self.secrets, now=now)

    def event_of(self, headers: Headers, body: bytes) -> EventBody | None:
        """The event, the same for a delivery that comes again. None for a type that nobody has asked for.

        `body` is verified JSON. Raises `PayloadError`.
        """
        if not body.lstrip().startswith(b"{"):
            raise PayloadError("a webhook's body is a JSON object; at GitHub choose the content type application/json")
        delivery, type = self._delivery(headers, body)
        if not delivery:
            raise PayloadError("the delivery has no id: one that comes again could not be told from a new one")
        name = self._name(type)
        if not name:
            return None
        return EventBody(check_event_id(f"{self.name}:{delivery}"), name, data=compact(Raw(body)))

    def _delivery(self, headers: Headers, body: bytes) -> tuple[str, str]:
        """The sender's id and type of it."""
        if self.kind == "github":
            return _single(headers, github.DELIVERY_HEADER), _single(headers, github.EVENT_HEADER)
        try:
            envelope = _envelope(body)
        except msgspec.ValidationError as error:
            raise PayloadError(f"the body's id or type is not a text: {error}") from None
        if self.kind == "stripe":
            return envelope.id, envelope.type
        return _single(headers, standard.ID_HEADER), envelope.type

    def _name(self, type: str) -> str:
        if isinstance(self.event, str):
            if not self.event and not type:
                raise PayloadError(f"the delivery has no type: name its events, as event = … of source {self.name!r}")
            return self.event or self._named_after(type)
        return self.event.get(type) or self.event.get(ANY, "")

    def _named_after(self, type: str) -> str:
        try:
            return _event_name(f"{self.name}/{type}")
        except DefinitionError as error:
            raise PayloadError(str(error)) from None


def sources_from(table: object, secrets_of: Callable[[str], str]) -> list[Source]:
    """`[tool.perdure.webhooks]` as it was read. `secrets_of` gives a source's secrets, one a line or between blanks.

    Raises `DefinitionError`.
    """
    if not isinstance(table, dict):
        raise DefinitionError("webhooks: a table for each source is needed, such as [tool.perdure.webhooks.github]")
    return [_source(name, options, secrets_of(name)) for name, options in cast("dict[str, Any]", table).items()]


def _source(name: str, options: Any, secrets: str) -> Source:
    where = f"webhooks.{name}"
    if not isinstance(options, dict):
        raise DefinitionError(f'{where}: a table is needed, with kind = "github", "stripe" or "standard"')
    given = cast("dict[str, Any]", options)
    if unknown := sorted(given.keys() - {"kind", "event"}):
        hint = ": secrets come by the environment, or a file" if "secret" in unknown else ""
        raise DefinitionError(f"{where}: there is no {unknown[0]!r} (there are kind, event){hint}")
    event: Any = given.get("event", "")
    names: list[object] = list(cast("dict[str, Any]", event).values()) if isinstance(event, dict) else [event]
    if not all(isinstance(one, str) for one in names):
        raise DefinitionError(f"{where}: event is a name, or a table of the sender's types and their names")
    if not secrets.split():
        variable = secret_variable(name)
        raise DefinitionError(f"{where} has no secret: set {variable}, or {variable}_FILE to a file that holds it")
    kind: Kind = given.get("kind", name)
    try:
        keys = [standard.secret_from(one) if kind == "standard" else one.encode() for one in secrets.split()]
    except ValueError as error:
        raise DefinitionError(f"{where}: {secret_variable(name)}: {error}") from None
    return Source(name, kind, keys, cast("str | dict[str, str]", event))


def secret_variable(name: str) -> str:
    """Where a source's secrets are looked for."""
    return f"PERDURE_WEBHOOKS_{name.upper().replace('-', '_')}_SECRET"


def _single(headers: Headers, name: str) -> str:
    """One header, or nothing. Which of two would count is not for us to guess."""
    found = headers.getlist(name)
    if len(found) > 1:
        raise SignatureRefused(f"the header {name} came {len(found)} times")
    if found and not found[0].isascii():
        raise SignatureRefused(f"the header {name} has other characters than ASCII")
    return found[0] if found else ""


def _event_name(name: str) -> str:
    checked = check_event_name(name)
    if checked.startswith(RESERVED):
        raise DefinitionError(f"event name {name!r}: names in {RESERVED!r} are the engine's own; choose another")
    return checked
