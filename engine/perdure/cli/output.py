"""What is printed. User data is inert: no markup, no control characters that would steer the terminal."""

import json
import sys
import unicodedata
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from perdure.duration import human
from perdure.errors import PerdureError

_WIDE = 160
_KEPT = {"\u200d"}
"""The joiner inside emoji is harmless; other format characters (bidi overrides, zero-width) can disguise text."""

STATUS_STYLES = {
    "queued": "cyan",
    "running": "blue",
    "suspended": "cyan",
    "parked": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "discarded": "yellow",
    "open": "cyan",
    "closed": "dim",
}


def release() -> str:
    """The version of Perdure; empty where it runs from a checkout that was never installed."""
    try:
        return version("perdure")
    except PackageNotFoundError:
        return ""


def console(*, stderr: bool = False) -> Console:
    """Markup and highlighting off: text is shown as it is. What goes into a pipe is not cut at 80 columns."""
    plain = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not plain.is_terminal and plain.width == 80:
        plain.width = _WIDE
    return plain


def inert(text: str, *, lines: bool = False) -> str:
    """`text` with control and format characters spelt out (`\\x1b`, `\\u202e`). `lines` keeps newlines and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _harmless(char, lines) else _spelt(char) for char in text)


def _harmless(char: str, lines: bool) -> bool:
    if char in "\n\t":
        return lines
    return char in _KEPT or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def styled(text: str, style: str = "", *, lines: bool = False) -> Text:
    """User data, ready to be printed."""
    return Text(inert(text, lines=lines), style)


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(inert(status), STATUS_STYLES.get(status, ""))


def print_json(value: Any) -> None:
    """One JSON value; indented for people, on one line for programs."""
    raw = msgspec.json.encode(value)
    if sys.stdout.isatty():
        raw = msgspec.json.format(raw, indent=2)
    click.echo(inert_json(raw.decode()))


def inert_json(text: str) -> str:
    """JSON whose strings may hold anything: it spells out all control characters itself, but not those beyond ASCII."""
    return text if text.isascii() and "\x7f" not in text else "".join(_ascii(char) for char in text)


def _ascii(char: str) -> str:
    return char if _harmless(char, lines=True) else json.dumps(char)[1:-1]


def print_error(error: PerdureError, *, as_json: bool) -> None:
    """On standard error for people; as JSON on standard output, where the reader of a result looks."""
    if as_json:
        print_json({"error": {"type": type(error).__name__, "detail": str(error)}})
    else:
        line = Text.assemble(("error: ", "bold red"), styled(str(error), lines=True))
        console(stderr=True).print(line, soft_wrap=True)


def moment(ms: int | None) -> str:
    """A time of the log, in the reader's own time zone."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def took(ms: float | None) -> str:
    """A length of time, short: `30µs`, `1.5ms`, `1.24s`, `2h45m`."""
    if ms is None:
        return ""
    if ms < 1:
        return f"{ms * 1000:.0f}µs" if ms else "0ms"
    if ms < 1_000:
        return f"{ms:.1f}ms" if ms < 10 else f"{ms:.0f}ms"
    return f"{ms / 1000:.2f}s" if ms < 60_000 else human(int(ms) // 1_000 * 1_000)


def cut(text: str, limit: int) -> str:
    """The beginning of a long text, with how much there is."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"
