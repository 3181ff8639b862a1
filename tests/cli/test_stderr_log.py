"""What engine and app log on standard error."""

import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from perdure import App, Context, Engine, current_step
from perdure.cli.stderr_log import JsonFormatter, TextFormatter, formatter, logging_options

OWN = logging.getLogger("shop.orders")


@pytest.fixture
def heard() -> Iterator[io.StringIO]:
    """All that is logged, as JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_json_lines_name_run_step_and_attempt(heard: io.StringIO, log_url: str) -> None:
    app = App("shop")

    @app.step
    def charge() -> None:
        OWN.info("in a thread")
        current_step().logger.warning("by the step")

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.info("by the run")
        OWN.info("in the run")
        await charge()

    async with Engine(app, log=log_url):
        OWN.info("outside")
        handle = await flow.enqueue()
        await handle.result()
    found = {line["message"]: line for line in lines(heard)}
    assert "run" not in found["outside"]
    assert [found[text]["run"] for text in ("by the run", "in the run", "in a thread", "by the step")] == [
        handle.id
    ] * 4
    assert "step" not in found["by the run"]
    assert (found["in a thread"]["step"], found["in a thread"]["attempt"]) == ("0/charge#1", 1)
    assert found["by the step"]["step"] == "0/charge#1"
    assert found["by the step"]["level"] == "warning"
    assert found["by the step"]["at"].endswith("Z")


async def test_the_engine_says_whom_it_speaks_of(heard: io.StringIO) -> None:
    logging.getLogger("perdure.worker").warning("it waits", extra={"run": "r1", "step": "0/a#1"})
    OWN.info("odd", extra={"run": 5})
    first, second = lines(heard)
    assert (first["run"], first["step"]) == ("r1", "0/a#1")
    assert "run" not in second


HOSTILE = ("a\nb", "\x1b[31m", "\u202e", "\udc80", "\u2028", "\x7f", "é")


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_lines_are_one_line_of_harmless_json(
    heard: io.StringIO, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test runner's own handlers would keep the text as it is, and cannot hand a lone surrogate on.
    ours = [one for one in logging.getLogger().handlers if isinstance(one.formatter, JsonFormatter)]
    monkeypatch.setattr(logging.getLogger(), "handlers", ours)
    text = HOSTILE[number]
    try:
        raise ValueError(text)
    except ValueError:
        OWN.exception("%s", text)
    raw = heard.getvalue()
    assert raw.count("\n") == 1
    assert not {"\x1b", "\u202e", "\udc80", "\u2028", "\x7f"} & set(raw)
    raw.encode()
    (line,) = lines(heard)
    assert line["message"] == text
    assert line["error"].startswith("Traceback")


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("shop", level, __file__, 1, message, (), None)


def test_text_has_colours_on_a_terminal_alone() -> None:
    plain = TextFormatter(colours=False).format(record(logging.ERROR, "x\x1b[2J"))
    assert plain.endswith(" ERROR    shop  x\\x1b[2J")
    coloured = TextFormatter(colours=True).format(record(logging.ERROR, "x\x1b[2J"))
    assert coloured.startswith("\x1b[31m")
    assert coloured.endswith("\x1b[0m shop  x\\x1b[2J")


@pytest.mark.parametrize(
    ("form", "terminal", "kind"),
    [
        ("auto", True, TextFormatter),
        ("auto", False, JsonFormatter),
        ("json", True, JsonFormatter),
        ("text", False, TextFormatter),
    ],
)
def test_which_form_it_has(form: str, terminal: bool, kind: type[logging.Formatter]) -> None:
    assert type(formatter(form, terminal=terminal)) is kind


@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        (["--log-format", "json", "--run-logs", "debug"], 0, ("json", "debug")),
        ([], 0, (None, None)),
        (["--log-format", "xml"], 2, (None, None)),
        (["--run-logs", "loud"], 2, (None, None)),
    ],
)
def test_the_options_reach_the_engine(
    args: list[str], code: int, expected: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the environment: `dev` has its engine in a process of its own."""
    for name in ("PERDURE_LOG_FORMAT", "PERDURE_RUN_LOGS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)

    @click.command()
    @logging_options
    def command() -> None:
        pass

    assert CliRunner().invoke(command, args).exit_code == code
    found = (os.environ.get("PERDURE_LOG_FORMAT"), os.environ.get("PERDURE_RUN_LOGS"))
    assert found == expected or code
