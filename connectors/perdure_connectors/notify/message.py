"""What is told, and its words."""

import unicodedata
from typing import Any, Literal, Protocol, get_args
from urllib.parse import quote

from msgspec import Struct

from perdure import Event

Kind = Literal["failed", "parked", "halted"]
KINDS: tuple[str, ...] = get_args(Kind)
LONGEST_ERROR = 600
"""Characters of an error that a message shows: the whole of it is where its link leads."""


class Happened(Struct, frozen=True):
    """One run that failed or is parked, or one partition that has halted."""

    kind: Kind
    about: str
    """The function's id; the partition's number."""
    run: str
    error: str


class Message(Struct, frozen=True):
    """One message about one or many of the same kind and function: `first` in full, of the others the number."""

    app: str
    first: Happened
    count: int
    at_ms: int
    link: str = ""
    """To the run."""

    @property
    def title(self) -> str:
        """One line, without anything that a user wrote but the function's id."""
        if self.first.kind == "halted":
            return f"{self.app}: partition {self.first.about} has halted"
        what = "failed" if self.first.kind == "failed" else "is parked"
        times = "" if self.count == 1 else f" {self.count:,} times" if what == "failed" else f", {self.count:,} runs"
        return f"{self.app}: {inert(self.first.about)} {what}{times}"

    @property
    def error(self) -> str:
        """That of the first, inert and not too long."""
        text = inert(self.first.error, lines=True)
        return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 1] + "…"


class Destination(Protocol):
    """Where messages go. `name` is the same in all processes of the app: it stands in the log."""

    @property
    def name(self) -> str: ...

    async def deliver(self, message: Message, key: str) -> None:
        """Raises if it did not arrive: then it is tried again, with the same key."""
        ...


def happened(event: Event[Any]) -> Happened:
    """What one of the engine's own events tells."""
    data = event.data
    if event.name == "perdure/partition.halted":
        return Happened("halted", str(data["partition"]), "", data["reason"])
    if event.name == "perdure/run.parked":
        return Happened("parked", data["function_id"], data["run_id"], data["reason"])
    error = data["error"]
    return Happened("failed", data["function_id"], data["run_id"], f"{error['type']}: {error['message']}")


def link_to(template: str, run: str) -> str:
    """The template with the run in it; nothing if there is no template, or no run."""
    return template.replace("{run}", quote(run, safe="")) if run else ""


def inert(text: str, *, lines: bool = False) -> str:
    """Without what could steer a screen: control characters, and those that turn the direction of writing."""
    kept = "\n" if lines else ""
    return "".join(
        one if one in kept or unicodedata.category(one)[0] not in "CZ" or one == " " else " " for one in text
    )
