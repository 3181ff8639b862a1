"""Stripe's `Stripe-Signature: t=…,v1=…`, with a `v1` for each of its secrets while they are rotated."""

from collections.abc import Sequence

from perdure_connectors.webhook.checking import (
    SignatureRefused,
    any_matches,
    check_secrets,
    check_time,
    mac,
    unhex,
)

SIGNATURE_HEADER = "stripe-signature"
_PARTS = 20
"""So many are looked at: no header may keep us busy."""


def sign(time: int, body: bytes, secrets: Sequence[bytes]) -> str:
    """The header, as Stripe makes it."""
    check_secrets(secrets)
    content = _content(str(time), body)
    return ",".join([f"t={time}", *(f"v1={mac(secret, content).hex()}" for secret in secrets)])


def verify(signature: str, body: bytes, secrets: Sequence[bytes], *, now: float) -> None:
    """Takes the header as it came and the body byte by byte. Raises `SignatureRefused`.

    A secret is the text that Stripe shows, `whsec_` included, as bytes.
    """
    check_secrets(secrets)
    if not signature.isascii():
        raise SignatureRefused("Stripe-Signature has other characters than ASCII")
    parts = [part.strip().partition("=") for part in signature.split(",")[:_PARTS]]
    times = [value for name, _, value in parts if name == "t"]
    if len(times) != 1:
        raise SignatureRefused("Stripe-Signature is needed, with one t= and at least one v1=")
    check_time(times[0], now)
    given = [unhex(value) for name, _, value in parts if name == "v1"]
    if not any_matches(given, secrets, _content(times[0], body)):
        raise SignatureRefused("no signature fits the body as it came: check the endpoint's secret (whsec_…)")


def _content(time: str, body: bytes) -> bytes:
    return f"{time}.".encode() + body
