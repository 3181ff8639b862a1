"""Standard Webhooks (standardwebhooks.com), its symmetric scheme `v1`: `webhook-id`, `-timestamp`, `-signature`."""

import base64
import binascii
from collections.abc import Sequence

from perdure_connectors.webhook.checking import SignatureRefused, any_matches, check_secrets, check_time, mac

ID_HEADER, TIME_HEADER, SIGNATURE_HEADER = "webhook-id", "webhook-timestamp", "webhook-signature"
PREFIX = "whsec_"
_VERSION = "v1,"
_SIGNATURES = 20
"""So many are looked at: a secret is rotated from one to the next, and no header may keep us busy."""


def secret_from(text: str) -> bytes:
    """The key that `whsec_…` stands for, also without that prefix. Raises ValueError."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a secret is {PREFIX} and base64; this one is something else") from None
    if len(key) < 16:
        raise ValueError(f"a secret has 24 bytes or more behind {PREFIX}; this one has {len(key)}: it can be guessed")
    return key


def sign(id: str, time: int, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The three headers, signed by all secrets: while one is rotated, receivers know the old or the new one."""
    check_secrets(secrets)
    if not id or "." in id or not id.isascii() or not id.isprintable():
        raise ValueError(f"webhook id {id!r}: printable ASCII without a dot, which divides what is signed")
    content = _content(id, str(time), body)
    signatures = (_VERSION + base64.b64encode(mac(secret, content)).decode() for secret in secrets)
    return {ID_HEADER: id, TIME_HEADER: str(time), SIGNATURE_HEADER: " ".join(signatures)}


def verify(id: str, time: str, signature: str, body: bytes, secrets: Sequence[bytes], *, now: float) -> None:
    """Takes the headers as they came and the body byte by byte. Raises `SignatureRefused`."""
    check_secrets(secrets)
    if not id or "." in id or not (id + time + signature).isascii():
        raise SignatureRefused(
            f"{ID_HEADER}, {TIME_HEADER} and {SIGNATURE_HEADER} are needed, in ASCII, no dot in the id"
        )
    check_time(time, now)
    if not any_matches(_signatures(signature), secrets, _content(id, time, body)):
        raise SignatureRefused(
            "no signature fits the body as it came: check the secret, and that no proxy changes bodies"
        )


def _content(id: str, time: str, body: bytes) -> bytes:
    return f"{id}.{time}.".encode() + body


def _signatures(header: str) -> list[bytes]:
    """Those of version 1. What cannot be read is none; others may be good."""
    found: list[bytes] = []
    for one in header.split(" ")[:_SIGNATURES]:
        if one.startswith(_VERSION):
            try:
                found.append(base64.b64decode(one.removeprefix(_VERSION), validate=True))
            except (binascii.Error, ValueError):
                continue
    return found
