"""Messages by mail."""

import asyncio
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Literal

from perdure.errors import DefinitionError
from perdure_connectors.notify.message import Message
from perdure_connectors.notify.posting import TIMEOUT_S, Undelivered


@dataclass(frozen=True)
class Mail:
    """`tls`: "starttls" (usual on port 587), "tls" (465), or "none" for a relay on this machine.

    A mail that is sent again has the same Message-ID, by which most mailboxes keep one of them.
    """

    to: Sequence[str]
    sender: str
    host: str
    port: int = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)
    name: str = "mail"

    def __post_init__(self) -> None:
        if not self.to or isinstance(self.to, str) or not self.host:
            raise DefinitionError('notify, mail: to = ["ops@example.com"] and a host are needed')
        if self.tls not in ("starttls", "tls", "none"):
            raise DefinitionError(f"notify, mail: tls={self.tls!r} is none of starttls, tls, none")
        if self.password and self.tls == "none":
            raise DefinitionError("notify, mail: a password goes over the wire as it is without tls")
        for address in (*self.to, self.sender):
            if address.count("@") != 1 or not address.isascii() or not address.isprintable() or " " in address:
                raise DefinitionError(f"notify, mail: {address!r} is no address such as ops@example.com")

    async def deliver(self, message: Message, key: str) -> None:
        """Hands it to the server."""
        try:
            await asyncio.to_thread(self._send, self.letter(message, key))
        except (smtplib.SMTPException, OSError) as error:
            # The text of such errors may repeat what was sent, the password too.
            code = getattr(error, "smtp_code", "")
            raise Undelivered(f"{self.host} did not take the mail: {type(error).__name__} {code}".rstrip()) from None

    def letter(self, message: Message, key: str) -> EmailMessage:
        """Plain text: nothing in it does anything."""
        letter = EmailMessage()
        letter["From"] = self.sender
        letter["To"] = ", ".join(self.to)
        letter["Subject"] = message.title
        letter["Date"] = format_datetime(datetime.fromtimestamp(message.at_ms / 1000, UTC))
        letter["Message-ID"] = f"<{key}@{self.sender.partition('@')[2]}>"
        letter["Auto-Submitted"] = "auto-generated"
        run = [f"first run: {message.first.run}", message.link] if message.first.run else []
        letter.set_content("\n".join([message.title, "", message.error, "", *run]) + "\n")
        return letter

    def _send(self, letter: EmailMessage) -> None:
        context = None if self.tls == "none" else ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=context)
            if self.tls == "tls"
            else smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)
        ) as server:
            if self.tls == "starttls":
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password)
            server.send_message(letter)
