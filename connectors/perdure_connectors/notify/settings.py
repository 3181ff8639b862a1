"""`[tool.perdure.notify]`, with secrets from the environment.

A destination is a table of its kind, for the app or for one function. Its secret is in a variable with its name.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, cast

from perdure import App
from perdure.errors import DefinitionError
from perdure.flow.patterns import is_own
from perdure_connectors.notify.functions import notify
from perdure_connectors.notify.mail import Mail
from perdure_connectors.notify.message import Destination
from perdure_connectors.notify.slack import Slack
from perdure_connectors.notify.webhook import Webhook

Secrets = Callable[[str], str]
"""The content of an environment variable, or of the file that the same name with `_FILE` names; else nothing."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


def notify_by(app: App, table: object, secret: Secrets, link: str = "") -> None:
    """Calls `notify` as the settings say, if they say anything. `link` is where runs are seen if they do not tell.

    Raises `DefinitionError`.
    """
    given = _table(table, "notify", {"on": list, "link": str, "functions": dict, **_DESTINATIONS})
    functions: dict[str, Any] = given.pop("functions", {})
    link = given.get("link", link)
    if any(name in given for name in ("on", *_DESTINATIONS)) or (given and not functions):
        destinations = list(_destinations(given, "notify", secret))
        if not destinations:
            raise DefinitionError(f"notify: nobody is told; give a table of {', '.join(_DESTINATIONS)}")
        notify(app, *destinations, on=_kinds(given), link=link)
    if functions:
        app.load()
    for id, own in functions.items():
        _notify_of(app, id, own, secret, link)


def _notify_of(app: App, id: str, table: object, secret: Secrets, link: str) -> None:
    what = f"notify.functions.{id}"
    function = app.functions.get(id)
    if function is None or is_own(id):
        known = [one for one in app.functions if not is_own(one)]
        close = get_close_matches(id, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known) or 'none'}"
        raise DefinitionError(f"{what}: {app!r} has no function {id!r}: {hint}")
    given = _table(table, what, {"on": list, **_DESTINATIONS})
    notify(app, *_destinations(given, what, secret), on=_kinds(given), link=link, functions=[function])


def _kinds(given: Mapping[str, Any]) -> list[str] | None:
    return [str(kind) for kind in given["on"]] if "on" in given else None


def _destinations(given: Mapping[str, Any], what: str, secret: Secrets) -> Iterator[Destination]:
    for kind, (make, known) in _KINDS.items():
        if kind in given:
            options = _table(given[kind], f"{what}.{kind}", {"name": str, **known})
            options.setdefault("name", kind)
            if not _NAME.fullmatch(options["name"]):
                raise DefinitionError(f"{what}.{kind}: name = {options['name']!r}: letters, digits and - are needed")
            yield make(options, f"{what}.{kind}", secret)


def _slack(options: dict[str, Any], what: str, secret: Secrets) -> Slack:
    return Slack(_needed(secret, _variable(options, "URL"), what), options["name"])


def _webhook(options: dict[str, Any], what: str, secret: Secrets) -> Webhook:
    variable = _variable(options, "SECRET")
    secrets = _needed(secret, variable, what).split()
    try:
        return Webhook(options.get("url", ""), secrets, options["name"])
    except ValueError as error:
        raise DefinitionError(f"{what}: {variable}: {error}") from None


def _mail(options: dict[str, Any], what: str, secret: Secrets) -> Mail:
    password = secret(_variable(options, "PASSWORD"))
    to, host, sender = (options.pop(name, "") for name in ("to", "host", "from"))
    return Mail(to, sender, host, password=password, **options)


_KINDS: dict[str, tuple[Callable[[dict[str, Any], str, Secrets], Destination], Mapping[str, type]]] = {
    "slack": (_slack, {}),
    "webhook": (_webhook, {"url": str}),
    "mail": (_mail, {"to": list, "from": str, "host": str, "port": int, "tls": str, "user": str}),
}
_DESTINATIONS = dict.fromkeys(_KINDS, dict)


def _variable(options: Mapping[str, Any], last: str) -> str:
    """`payments` → `PERDURE_NOTIFY_PAYMENTS_URL`."""
    return f"PERDURE_NOTIFY_{options['name'].upper().replace('-', '_')}_{last}"


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
