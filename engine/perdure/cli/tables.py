"""Tables of the settings file, read by the process that serves."""

from pathlib import Path

import msgspec

from perdure.cli.exits import UsageProblem
from perdure.cli.loading import load_app
from perdure.cli.settings import file_settings
from perdure.sdk.app import App
from perdure.sdk.environment import from_environment
from perdure_connectors.notify.settings import notify_by
from perdure_connectors.webhook.source import Source, secret_variable, sources_from


def webhook_sources() -> list[Source]:
    """`[tool.perdure.webhooks]`, with secrets from the environment."""
    table = file_settings(Path.cwd()).get("webhooks", {})
    return sources_from(table, lambda name: from_environment(secret_variable(name)))


class _Redact(msgspec.Struct, forbid_unknown_fields=True):
    rules: list[str] = []


def redaction_rules() -> list[str]:
    """`rules` of `[tool.perdure.redact]`. Raises `UsageProblem`."""
    try:
        return msgspec.convert(file_settings(Path.cwd()).get("redact", {}), _Redact).rules
    except msgspec.ValidationError as error:
        raise UsageProblem(f'[tool.perdure.redact] has a list of texts, rules = ["data.email"]: {error}') from None


def app_that_notifies(target: str, gateway: str = "") -> App:
    """The app, which tells whom `[tool.perdure.notify]` names. `gateway`: where its runs are seen, if it has one."""
    app = load_app(target)
    link = f"{gateway}/v1/runs/{{run}}" if gateway else ""
    notify_by(app, file_settings(Path.cwd()).get("notify", {}), from_environment, link)
    return app
