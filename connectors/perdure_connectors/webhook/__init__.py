"""Webhooks: the signatures of those that come in, and of those that go out."""

from perdure_connectors.webhook import github, standard, stripe
from perdure_connectors.webhook.checking import SignatureRefused
from perdure_connectors.webhook.source import Source

__all__ = ["SignatureRefused", "Source", "github", "standard", "stripe"]
