"""What all kinds of signatures have in common."""

import hmac
from collections.abc import Iterable, Sequence

from perdure.errors import PerdureError

TOLERANCE_S = 300
"""A signature is worth nothing from this age on, or so far ahead: whoever caught the request may send it again."""

_LONGEST_TIME = 12
"""Digits: until the year 33658. More would only be work."""


class SignatureRefused(PerdureError):
    """A request that was not signed by who knows the secret, or too long ago."""


def check_secrets(secrets: Sequence[bytes]) -> None:
    """An empty secret is one that everybody knows."""
    if not secrets or not all(secrets):
        raise ValueError("a secret is needed, and none may be empty")


def mac(secret: bytes, content: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(secret, content, "sha256")


def any_matches(given: Iterable[bytes], secrets: Sequence[bytes], content: bytes) -> bool:
    """Whether one of the signatures is by one of the secrets. Takes as long whichever it is, or none."""
    expected = [mac(secret, content) for secret in secrets]
    found = False
    for signature in given:
        for one in expected:
            found |= hmac.compare_digest(signature, one)
    return found


def unhex(text: str) -> bytes:
    """The bytes of an HMAC-SHA256 as senders write it, in lower case; nothing for whatever else stands there."""
    digits = "0123456789abcdef"
    return bytes.fromhex(text) if len(text) == 64 and all(one in digits for one in text) else b""


def check_time(text: str, now: float) -> int:
    """The time that was signed, in seconds since 1970. Raises `SignatureRefused` unless it is about now."""
    # `isdigit` alone lets digits of other scripts through, which `int` reads as well.
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_TIME):
        raise SignatureRefused("the signature has no time, or one that is not in seconds since 1970")
    time = int(text)
    if abs(now - time) >= TOLERANCE_S:
        how = "old" if time < now else "ahead of this machine's clock"
        raise SignatureRefused(f"the signature is 5 minutes {how}, or more: sign it anew, and check both clocks")
    return time
