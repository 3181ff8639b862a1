"""Messages to a program, as webhooks signed after Standard Webhooks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from perdure_connectors.notify.message import Message
from perdure_connectors.notify.posting import check_url, post
from perdure_connectors.webhook import standard


@dataclass(frozen=True)
class Webhook:
    """`secrets` as `whsec_…`: each signs, so that a new one can stand beside the old one until the receiver has it.

    A message that is posted again has the same `webhook-id` and the same body.
    """

    url: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    name: str = "webhook"

    def __post_init__(self) -> None:
        check_url(self.url, "notify, webhook")
        self._keys()

    async def deliver(self, message: Message, key: str) -> None:
        """Posts it, signed now."""
        body = msgspec.json.encode(payload(message))
        headers = standard.sign(f"msg_{key}", int(time.time()), body, self._keys())
        await post(self.url, body, {"content-type": "application/json", **headers}, "the webhook")

    def _keys(self) -> list[bytes]:
        return [standard.secret_from(secret) for secret in self.secrets]


def payload(message: Message) -> dict[str, object]:
    """What happened, as data: for programs, and so as it was written."""
    first = message.first
    about = {"partition": int(first.about)} if first.kind == "halted" else {"function": first.about, "run": first.run}
    data = {"app": message.app, **about, "error": first.error, "count": message.count, "link": message.link}
    at = datetime.fromtimestamp(message.at_ms / 1000, UTC)
    name = "partition.halted" if first.kind == "halted" else f"run.{first.kind}"
    return {"type": f"perdure.{name}", "timestamp": at.isoformat(), "data": data}
