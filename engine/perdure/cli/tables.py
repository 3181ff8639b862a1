"""Tables of the settings file, read by the process that serves."""

import os
from pathlib import Path

from perdure.cli.settings import file_settings, from_file_variable
from perdure_connectors.webhook.source import Source, secret_variable, sources_from


def secret(variable: str) -> str:
    """From the environment, or the file that `<variable>_FILE` names. Empty if there is none."""
    return os.environ.get(variable) or from_file_variable(variable) or ""


def webhook_sources() -> list[Source]:
    """`[tool.perdure.webhooks]`, with secrets from the environment."""
    table = file_settings(Path.cwd()).get("webhooks", {})
    return sources_from(table, lambda name: secret(secret_variable(name)))
