"""Sending events: from a run it is an op, from elsewhere it is durable when it returns."""

from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, overload

from msgspec import Raw

from perdure.duration import until_ms
from perdure.errors import PayloadError, PayloadTooLarge
from perdure.flow.patterns import check_event_name
from perdure.sdk.events import Event, Json
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES
from perdure.worker.payloads import encode
from perdure.worker.tracing import current_traceparent
from perdure_schemas.event import EventBody


class Sender:
    """What can send events: a Context, a Client, an Engine."""

    @overload
    async def send(self, event: Event[Any], /) -> str: ...
    @overload
    async def send(self, name: str, data: Mapping[str, Any], /, *, id: str = ..., user: Json = ...) -> str: ...
    async def send(
        self,
        event: Event[Any] | str,
        data: Mapping[str, Any] | None = None,
        /,
        *,
        id: str = "",
        user: Json | None = None,
    ) -> str:
        """Sends one event and gives its id. An event with an id that came before changes nothing."""
        if isinstance(event, str):
            event = Event(event, dict(data or {}), id, user or {})
        return (await self.send_many([event]))[0]

    def send_many(self, events: Iterable[Event[Any]], /) -> Coroutine[Any, Any, list[str]]:
        """Sends events together; their ids in order."""
        raise NotImplementedError


def event_body(event: Event[Any], default_id: str) -> EventBody:
    """An event as the log keeps it. Raises `PayloadError` for data that is no JSON object."""
    check_event_name(event.name, what="send")
    data = encode(event.data)
    if not data.startswith(b"{"):
        raise PayloadError(f"event {event.name!r}: its data is an object, not {type(event.data).__name__}")
    user = encode(event.user)
    if len(data) + len(user) > EVENT_LIMIT_BYTES:
        raise PayloadTooLarge(
            f"event {event.name!r} has {len(data) + len(user):,} bytes of data and may have {EVENT_LIMIT_BYTES:,}: "
            "keep large data elsewhere and send its key"
        )
    ts = None if event.ts is None else until_ms(event.ts, 0, what="ts")
    return EventBody(event.id or default_id, event.name, Raw(data), Raw(user), ts, event.v, current_traceparent())
