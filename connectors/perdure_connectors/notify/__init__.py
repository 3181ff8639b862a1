"""Tells people, or a program, when a run fails or is parked and when a partition halts: `notify(app, Slack(…))`."""

from perdure_connectors.notify.functions import notify
from perdure_connectors.notify.mail import Mail
from perdure_connectors.notify.message import KINDS, Destination, Message
from perdure_connectors.notify.slack import Slack
from perdure_connectors.notify.webhook import Webhook

__all__ = ["KINDS", "Destination", "Mail", "Message", "Slack", "Webhook", "notify"]
