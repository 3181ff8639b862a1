"""Messages to a channel of Slack, by an incoming webhook."""

from dataclasses import dataclass, field

import msgspec

from perdure_connectors.notify.message import Message, inert
from perdure_connectors.notify.posting import check_url, post

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "ˋ"}
"""The first three are Slack's own: without them `<!channel>` calls everybody. The last would end a piece of code."""


@dataclass(frozen=True)
class Slack:
    """`url`: of the incoming webhook (https://hooks.slack.com/services/…), which is all that it takes to post there.

    Slack knows no idempotency: a message that is posted again, because the engine died before it knew of the first,
    stands there twice. The header `Idempotency-Key` is for what stands between.
    """

    url: str = field(repr=False)
    name: str = "slack"

    def __post_init__(self) -> None:
        check_url(self.url, "notify, Slack")

    async def deliver(self, message: Message, key: str) -> None:
        """Posts it."""
        headers = {"content-type": "application/json", "idempotency-key": key}
        await post(self.url, msgspec.json.encode(payload(message)), headers, "Slack")


def payload(message: Message) -> dict[str, object]:
    """What users wrote stands in code, where Slack makes no links, mentions and styles of it."""
    lines = [f"*{escaped(message.title)}*", f"```{escaped(message.error, lines=True)}```"]
    run = message.first.run
    if run:
        lines.append(f"first run: <{message.link}|{run}>" if message.link else f"first run: `{run}`")
    return {"text": "\n".join(lines), "link_names": False, "unfurl_links": False, "unfurl_media": False}


def escaped(text: str, *, lines: bool = False) -> str:
    """Nobody is called by it, and nothing in it can be clicked."""
    return "".join(_ESCAPES.get(one, one) for one in inert(text, lines=lines))
