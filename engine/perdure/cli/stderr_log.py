"""What the engine and the app log, on standard error: readable on a terminal, JSON lines elsewhere.

Either way what user code logs is inert: it may hold what others sent, and must steer neither terminal nor collector.
"""

import json
import logging
import os
import sys
import time
from typing import Any

import click

from perdure.cli.output import inert, inert_json
from perdure.cli.settings import Setting
from perdure.worker.run_logs import LEVELS, run_and_step
from perdure.worker.tracing import current_traceparent, trace_id

FORMATS = ("auto", "json", "text")
_TEXT = "%(asctime)s %(levelname)-8s %(name)s  %(message)s"
_COLOURS = ((logging.ERROR, "31"), (logging.WARNING, "33"), (logging.INFO, "36"))


def logging_options(command: click.decorators.FC) -> click.decorators.FC:
    """`--log-format`, `--run-logs` and `--tracing`, for processes that run an engine."""
    formats = click.option(
        "--log-format",
        cls=Setting,
        type=click.Choice(FORMATS),
        expose_value=False,
        callback=_hand_on,
        help="Of standard error: JSON lines, or text.  [default: auto, which is text on a terminal]",
    )
    levels = click.option(
        "--run-logs",
        cls=Setting,
        type=click.Choice([*LEVELS, "off"]),
        expose_value=False,
        callback=_hand_on,
        help="Keep what runs log from this level on, for `perdure logs`.  [default: info]",
    )
    tracing = click.option(
        "--tracing",
        cls=Setting,
        type=click.Choice(["on", "off"]),
        expose_value=False,
        callback=_hand_on,
        help="Spans of runs and steps, for OpenTelemetry.  [default: off]",
    )
    return formats(levels(tracing(command)))


def _hand_on(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    """Where the engine looks for it, also that of `dev`, which has a process of its own."""
    if value is not None and isinstance(option, Setting):
        os.environ[str(option.envvar)] = value


class JsonFormatter(logging.Formatter):
    """A line of JSON: time, level, logger, message; of a run's code also run, step and attempt; trace; a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        run, step, attempt = run_and_step(record)
        about = {"run": run, "step": step, "attempt": attempt, "trace_id": trace_id(current_traceparent())}
        line |= {name: value for name, value in about.items() if value}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return inert_json(json.dumps(line, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """The line, and the traceback below it."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__(_TEXT, "%H:%M:%S")
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """In the colour of its level, where there are colours."""
        text = inert(super().format(record), lines=True)
        colour = next((code for level, code in _COLOURS if record.levelno >= level), "2")
        if not self._colours:
            return text
        # Time and level alone: what follows is read, not scanned.
        end = len(f"00:00:00 {record.levelname:8}")
        return f"\x1b[{colour}m{text[:end]}\x1b[0m{text[end:]}"


def log_to_stderr() -> None:
    """What the app logs is seen, unless it has set logging up itself."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(os.environ.get("PERDURE_LOG_FORMAT", "auto"), terminal=sys.stderr.isatty()))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for talkative in ("uvicorn", "aiokafka"):  # What of it people need, the banner and our own lines say.
        logging.getLogger(talkative).setLevel(logging.WARNING)


def formatter(form: str, *, terminal: bool) -> logging.Formatter:
    """`auto` is text on a terminal, and JSON where a program reads."""
    if form == "json" or (form != "text" and not terminal):
        return JsonFormatter()
    return TextFormatter(colours=terminal and not os.environ.get("NO_COLOR"))
