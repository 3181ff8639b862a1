"""`[tool.perdure.notify]`, with secrets from the environment."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from perdure import App
from perdure.errors import DefinitionError
from perdure_connectors.notify.functions import notify
from perdure_connectors.notify.mail import Mail
from perdure_connectors.notify.message import KINDS, Destination
from perdure_connectors.notify.slack import Slack
from perdure_connectors.notify.webhook import Webhook

Secrets = Callable[[str], str]
"""The content of an environment variable, or of the file that the same name with `_FILE` names; else nothing."""

_TABLES = ("slack", "webhook", "mail")


def notify_by(app: App, table: object, secret: Secrets, link: str = "") -> None:
    """Calls `notify` as the settings say, if they say anything. `link` is where runs are seen if they do not tell.

    Raises `DefinitionError`.
    """
    given = _table(table, "notify", {"on": list, "link": str, "slack": dict, "webhook": dict, "mail": dict})
    if given:
        on = given.get("on", list(KINDS))
        notify(app, *_destinations(given, secret), on=[str(kind) for kind in on], link=given.get("link", link))


def _destinations(given: Mapping[str, Any], secret: Secrets) -> Iterator[Destination]:
    if not any(name in given for name in _TABLES):
        raise DefinitionError(f"notify: nobody is told; give a table of {', '.join(_TABLES)}")
    if "slack" in given:
        _table(given["slack"], "notify.slack", {})
        yield Slack(_needed(secret, "PERDURE_NOTIFY_SLACK_URL", "notify.slack"))
    if "webhook" in given:
        options = _table(given["webhook"], "notify.webhook", {"url": str})
        secrets = _needed(secret, "PERDURE_NOTIFY_WEBHOOK_SECRET", "notify.webhook").split()
        try:
            yield Webhook(options.get("url", ""), secrets)
        except ValueError as error:
            raise DefinitionError(f"notify.webhook: PERDURE_NOTIFY_WEBHOOK_SECRET: {error}") from None
    if "mail" in given:
        yield _mail(given["mail"], secret("PERDURE_NOTIFY_MAIL_PASSWORD"))


def _mail(table: object, password: str) -> Mail:
    known = {"to": list, "from": str, "host": str, "port": int, "tls": str, "user": str}
    options = _table(table, "notify.mail", known)
    to, host, sender = (options.pop(name, "") for name in ("to", "host", "from"))
    return Mail(to, sender, host, password=password, **options)


def _needed(secret: Secrets, variable: str, what: str) -> str:
    found = secret(variable)
    if not found:
        raise DefinitionError(f"{what}: set {variable}, or {variable}_FILE to a file that holds it")
    return found


def _table(table: object, what: str, known: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise DefinitionError(f"{what}: a table is needed: [tool.perdure.{what}]")
    given = dict(cast("dict[str, Any]", table))
    for name, value in given.items():
        if name not in known:
            there = ", ".join(known) or "none"
            raise DefinitionError(f"{what}: there is no {name!r} (there are {there}); secrets come by the environment")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise DefinitionError(f"{what}: {name} = {value!r}: {known[name].__name__} is needed")
    return given
