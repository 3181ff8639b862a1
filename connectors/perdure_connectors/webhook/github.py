"""GitHub's `X-Hub-Signature-256`. It signs the body alone: neither a time, nor the headers beside it."""

from collections.abc import Sequence

from perdure_connectors.webhook.checking import SignatureRefused, any_matches, check_secrets, mac, unhex

SIGNATURE_HEADER, DELIVERY_HEADER, EVENT_HEADER = "x-hub-signature-256", "x-github-delivery", "x-github-event"
_VERSION = "sha256="


def sign(body: bytes, secret: bytes) -> str:
    """The header, as GitHub makes it."""
    check_secrets([secret])
    return _VERSION + mac(secret, body).hex()


def verify(signature: str, body: bytes, secrets: Sequence[bytes]) -> None:
    """Takes the header as it came and the body byte by byte. Raises `SignatureRefused`."""
    check_secrets(secrets)
    if not signature.isascii() or not signature.startswith(_VERSION):
        raise SignatureRefused("X-Hub-Signature-256 is needed, as sha256=…: set a secret for the webhook at GitHub")
    if not any_matches([unhex(signature.removeprefix(_VERSION))], secrets, body):
        raise SignatureRefused("the signature does not fit the body as it came: check the secret on both sides")
