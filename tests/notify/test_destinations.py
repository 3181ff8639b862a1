"""What arrives at receivers on loopback, and that nothing in it that a user wrote does anything."""

import asyncio
import email
import email.policy
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest
from aiohttp import web

from perdure import App
from perdure.errors import DefinitionError, RetryAfter
from perdure_connectors.notify import Mail, Message, Slack, Webhook
from perdure_connectors.notify.message import Happened, happened, link_to
from perdure_connectors.notify.posting import Undelivered
from perdure_connectors.notify.settings import notify_by
from perdure_connectors.notify.slack import payload
from perdure_connectors.webhook import standard

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NASTY = (
    "<!channel> <https://evil.example|click> `code` \x1b[31m\u202ereversed\u2066 @here &amp; "
    "javascript:alert(1)\r\nX: y"
)
MESSAGE = Message(
    "shop", Happened("failed", "fulfil", "r1", f"ValueError: {NASTY}"), 1_000, 1_700_000_000_000, "http://x.example/r1"
)


class Receiver:
    """Keeps requests, and answers as told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.status, headers=self.headers)


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/services/secret-part"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def test_slack_gets_a_message_that_calls_nobody() -> None:
    async with receiving() as receiver:
        await Slack(receiver.url).deliver(MESSAGE, "k1")
    ((headers, body),) = receiver.got
    assert headers["idempotency-key"] == "k1"
    content = msgspec.json.decode(body)
    assert content["link_names"] is content["unfurl_links"] is False
    text: str = content["text"]
    assert text.startswith("*shop: fulfil failed 1,000 times*\n")
    assert text.endswith("first run: <http://x.example/r1|r1>")
    code = text.partition("```")[2].partition("```")[0]
    assert "&lt;!channel&gt; &lt;https://evil.example|click&gt;" in code
    assert "&amp;amp;" in code
    rest = text.replace("<http://x.example/r1|r1>", "")
    assert not set(rest) & set("<>\x1b\u202e\u2066\r")
    assert rest.count("`") == 6


def test_a_function_cannot_call_people_by_its_name_either() -> None:
    text = str(payload(Message("shop", Happened("parked", "<!here>", "r1", ""), 2, 0))["text"])
    assert text == "*shop: &lt;!here&gt; is parked, 2 runs*\n``````\nfirst run: `r1`"


async def test_a_webhook_is_signed_and_the_same_when_it_comes_again() -> None:
    async with receiving() as receiver:
        for _ in range(2):
            await Webhook(receiver.url, [SECRET]).deliver(MESSAGE, "0a1b")
    (first, body), (second, again) = receiver.got
    assert body == again
    assert first["webhook-id"] == second["webhook-id"] == "msg_0a1b"
    now, key = int(first["webhook-timestamp"]), standard.secret_from(SECRET)
    standard.verify(first["webhook-id"], str(now), first["webhook-signature"], body, [key], now=now)
    assert msgspec.json.decode(body) == {
        "type": "perdure.run.failed",
        "timestamp": "2023-11-14T22:13:20+00:00",
        "data": {
            "app": "shop",
            "function": "fulfil",
            "run": "r1",
            "error": MESSAGE.first.error,
            "count": 1000,
            "link": "http://x.example/r1",
        },
    }


async def test_what_is_not_taken_is_an_error_without_the_address() -> None:
    async with receiving() as receiver:
        slack = Slack(receiver.url)
        for receiver.status in (302, 400, 500):
            with pytest.raises(Undelivered, match=rf"^Slack answered {receiver.status}$"):
                await slack.deliver(MESSAGE, "k")
        receiver.status, receiver.headers = 429, {"retry-after": "30"}
        with pytest.raises(RetryAfter) as busy:
            await slack.deliver(MESSAGE, "k")
        assert busy.value.delay == "30s"
    with pytest.raises(Undelivered, match="cannot be reached") as gone:
        await slack.deliver(MESSAGE, "k")
    assert "secret-part" not in f"{gone.value!r} {slack!r}"
    assert gone.value.__suppress_context__


class MailServer:
    """As much of SMTP as it takes to be given a letter."""

    def __init__(self) -> None:
        self.letters: list[bytes] = []
        self.refusing = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"MAIL" and self.refusing:
                writer.write(b"451 later\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                self.letters.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 ok\r\n")
            await writer.drain()
        writer.close()
        await writer.wait_closed()


async def test_a_mail_is_plain_text_and_has_the_key_as_its_id() -> None:
    server = MailServer()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        mail = Mail(["ops@example.com", "on@example.com"], "perdure@example.com", "127.0.0.1", port, tls="none")
        await mail.deliver(MESSAGE, "0a1b")
        server.refusing = True
        with pytest.raises(Undelivered, match="did not take the mail: SMTPSenderRefused 451"):
            await mail.deliver(MESSAGE, "0a1b")
    (raw,) = server.letters
    letter = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(letter, EmailMessage)
    assert letter["subject"] == "shop: fulfil failed 1,000 times"
    assert (letter["to"], letter["message-id"]) == ("ops@example.com, on@example.com", "<0a1b@example.com>")
    assert letter["x"] is None
    assert letter.get_content_type() == "text/plain"
    text = letter.get_content()
    assert "http://x.example/r1" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Undelivered, match="ConnectionRefusedError"):
        await Mail(["a@b.c"], "a@b.c", "127.0.0.1", 1, tls="none").deliver(MESSAGE, "k")


def test_messages_of_the_engines_events() -> None:
    from perdure import Event

    halted = happened(Event("perdure/partition.halted", {"partition": 3, "reason": "no such kind"}))
    assert Message("shop", halted, 1, 0).title == "shop: partition 3 has halted"
    parked = happened(Event("perdure/run.parked", {"run_id": "r", "function_id": "f", "reason": "why"}))
    assert Message("shop", parked, 1, 0).title == "shop: f is parked"
    assert len(Message("shop", Happened("failed", "f", "r", "x" * 10_000), 1, 0).error) == 600
    assert link_to("https://x/{run}", "") == ""
    assert link_to("https://x/{run}", "a/b|c>") == "https://x/a%2Fb%7Cc%3E"


SECRETS = {
    "PERDURE_NOTIFY_SLACK_URL": "https://hooks.slack.example/services/x",
    "PERDURE_NOTIFY_WEBHOOK_SECRET": SECRET,
}


def test_settings_make_the_destinations() -> None:
    app = App("shop")
    mail = {"to": ["a@b.c"], "from": "p@b.c", "host": "localhost"}
    table: dict[str, Any] = {"slack": {}, "webhook": {"url": "https://x.example"}, "mail": mail, "on": ["failed"]}
    notify_by(app, table, lambda name: SECRETS.get(name, ""))
    assert sorted(app.functions) == ["perdure/notice", "perdure/tell"]
    other = App("other")
    notify_by(other, {}, lambda name: "")
    assert not other.functions


def shop() -> App:
    app = App("shop")

    @app.background
    async def charge() -> None: ...

    @app.background
    async def mail() -> None: ...

    return app


async def test_settings_of_a_function() -> None:
    app = shop()
    table = {
        "slack": {},
        "link": "https://p.example/{run}",
        "functions": {"charge": {"on": ["failed"], "slack": {"name": "payments-2"}}, "mail": {"on": []}},
    }
    asked: list[str] = []

    def secret(name: str) -> str:
        asked.append(name)
        return "https://hooks.slack.example/services/x"

    notify_by(app, table, secret)
    assert asked == ["PERDURE_NOTIFY_SLACK_URL", "PERDURE_NOTIFY_PAYMENTS_2_URL"]
    triggers = {one.event: one.where for one in app.functions["perdure/notice"].declared.triggers}
    assert triggers == {
        "perdure/function.failed": '!(event.data.function_id in ["mail"])',
        "perdure/run.parked": '!(event.data.function_id in ["charge", "mail"])',
        "perdure/partition.halted": "",
    }


def test_settings_of_a_function_alone() -> None:
    app = shop()
    notify_by(app, {"functions": {"charge": {"slack": {}}}}, lambda name: SECRETS.get(name, ""))
    assert {one.where for one in app.functions["perdure/notice"].declared.triggers} == {
        'event.data.function_id in ["charge"]'
    }


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"slack": {}, "functions": {"chrage": {}}}, r"notify.functions.chrage: .*did you mean 'charge'"),
        ({"slack": {}, "functions": {"xyz": {}}}, "there are charge, mail"),
        ({"slack": {}, "functions": {"charge": {"link": "x"}}}, "notify.functions.charge: there is no 'link'"),
        ({"slack": {}, "functions": {"charge": {"on": ["fail"]}}}, "'fail' is none of"),
        ({"slack": {}, "functions": {"charge": {"on": ["halted"]}}}, "no function's"),
        ({"slack": {}, "functions": {"charge": "slack"}}, r"needed: \[tool.perdure.notify.functions.charge\]"),
        ({"functions": {"charge": {}}}, "say first who is told"),
        ({"slack": {}, "functions": {"charge": {"slack": {"name": "a b"}}}}, "letters, digits"),
        ({"slack": {}, "functions": {"charge": {"slack": {"name": "pay"}}}}, "set PERDURE_NOTIFY_PAY_URL"),
        ({"webhook": {"url": "https://x", "name": "slack"}, "slack": {}}, "PERDURE_NOTIFY_SLACK_SECRET"),
    ],
)
def test_settings_of_functions_that_cannot_be_right(table: object, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        notify_by(shop(), table, lambda name: SECRETS.get(name, ""))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "a table is needed"),
        ({"on": ["failed"]}, "nobody is told"),
        ({"slak": {}}, "there is no 'slak'"),
        ({"slack": {"url": "https://x"}}, "secrets come by the environment"),
        ({"slack": {}, "on": ["fail"]}, "'fail' is none of"),
        ({"slack": {}, "on": "failed"}, "list is needed"),
        ({"webhook": {}}, "https:// is needed"),
        ({"webhook": {"url": "ftp://x"}}, "https:// is needed"),
        ({"mail": {}}, "a host are needed"),
        ({"mail": {"to": ["a b@c"], "host": "h", "from": "a@b"}}, "no address"),
        ({"mail": {"to": ["a@c"], "host": "h", "from": "a@b", "tls": "ssl"}}, "none of starttls"),
        ({"mail": {"to": ["a@c"], "host": "h", "from": "a@b", "port": "25"}}, "int is needed"),
    ],
)
def test_settings_that_cannot_be_right(table: object, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        notify_by(App("shop"), table, lambda name: SECRETS.get(name, ""))


def test_secrets_that_are_missing() -> None:
    with pytest.raises(DefinitionError, match="PERDURE_NOTIFY_SLACK_URL_FILE"):
        notify_by(App("shop"), {"slack": {}}, lambda name: "")
    with pytest.raises(DefinitionError, match="without tls"):
        Mail(["a@b.c"], "a@b.c", "h", tls="none", password="p")
