"""Signatures against the vectors that their inventors publish, and against whoever has not got the secret."""

import base64
import hashlib
import hmac

import pytest

from perdure_connectors.webhook import SignatureRefused, github, standard, stripe

NOW = 1614265330
KEY = standard.secret_from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = b"another secret, of 32 bytes long"

GITHUB_SECRET = b"It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

STRIPE_TIME = 1533204620
STRIPE_SECRET = b"webhook_secret"
STRIPE_SIGNATURE = (
    "t=1533204620,v1=f0bdba6d4eacbd8ad8a3bbadd7248e633ec1477f7899c124c51b39405fa36613,"
    "v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef"
)
"""With the body below, from the tests of Stripe's own client for .NET."""
STRIPE_BODY = b"""{
  "id": "evt_123",
  "object": "event",
  "account": "acct_123",
  "api_version": "2017-05-25",
  "created": 1533204620,
  "data": {
    "object": {
      "id": "ii_123",
      "object": "invoiceitem",
      "amount": 1000,
      "currency": "usd",
      "customer": "cus_123",
      "date": 1533204620,
      "description": "Test Invoice Item",
      "discountable": false,
      "invoice": "in_123",
      "livemode": false,
      "metadata": {},
      "period": {
        "start": 1533204620,
        "end": 1533204620
      },
      "plan": null,
      "proration": false,
      "quantity": null,
      "subscription": null
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": "req_123",
    "idempotency_key": "idempotency-key-123"
  },
  "type": "invoiceitem.created"
}
"""


def test_the_published_vectors() -> None:
    standard.verify(ID, str(NOW), SIGNATURE, BODY, [KEY], now=NOW)
    assert standard.sign(ID, NOW, BODY, [KEY]) == {
        "webhook-id": ID,
        "webhook-timestamp": str(NOW),
        "webhook-signature": SIGNATURE,
    }
    github.verify(GITHUB_SIGNATURE, GITHUB_BODY, [GITHUB_SECRET])
    assert github.sign(GITHUB_BODY, GITHUB_SECRET) == GITHUB_SIGNATURE
    stripe.verify(STRIPE_SIGNATURE, STRIPE_BODY, [STRIPE_SECRET], now=STRIPE_TIME + 100)
    assert STRIPE_SIGNATURE.startswith(stripe.sign(STRIPE_TIME, STRIPE_BODY, [STRIPE_SECRET]))


def test_a_secret_in_rotation() -> None:
    """Either side may be the first to know the new one."""
    both = standard.sign(ID, NOW, BODY, [OTHER, KEY])["webhook-signature"]
    assert both.split(" ")[1] == SIGNATURE
    for known in ([KEY], [OTHER], [KEY, OTHER]):
        standard.verify(ID, str(NOW), both, BODY, known, now=NOW)
    standard.verify(ID, str(NOW), SIGNATURE, BODY, [OTHER, KEY], now=NOW)
    github.verify(GITHUB_SIGNATURE, GITHUB_BODY, [OTHER, GITHUB_SECRET])
    rolled = stripe.sign(NOW, BODY, [OTHER, STRIPE_SECRET])
    for known in ([STRIPE_SECRET], [OTHER]):
        stripe.verify(rolled, BODY, known, now=NOW)


@pytest.mark.parametrize("age", [-299, 0, 299])
def test_within_five_minutes(age: int) -> None:
    standard.verify(ID, str(NOW), SIGNATURE, BODY, [KEY], now=NOW + age)
    stripe.verify(STRIPE_SIGNATURE, STRIPE_BODY, [STRIPE_SECRET], now=STRIPE_TIME + age)


@pytest.mark.parametrize("age", [-300, 300, 100_000, -100_000])
def test_stale_by_five_minutes_or_ahead(age: int) -> None:
    with pytest.raises(SignatureRefused, match="5 minutes"):
        standard.verify(ID, str(NOW), SIGNATURE, BODY, [KEY], now=NOW + age)
    with pytest.raises(SignatureRefused, match="5 minutes"):
        stripe.verify(STRIPE_SIGNATURE, STRIPE_BODY, [STRIPE_SECRET], now=STRIPE_TIME + age)


@pytest.mark.parametrize(
    "body", [b'{"test":2432232314}', b'{"test": 2432232314}\n', b"", b'\xef\xbb\xbf{"test": 2432232314}']
)
def test_a_body_that_was_written_anew(body: bytes) -> None:
    """The same JSON in other bytes is another body."""
    with pytest.raises(SignatureRefused):
        standard.verify(ID, str(NOW), SIGNATURE, body, [KEY], now=NOW)
    with pytest.raises(SignatureRefused):
        github.verify(github.sign(BODY, GITHUB_SECRET), body, [GITHUB_SECRET])
    with pytest.raises(SignatureRefused):
        stripe.verify(stripe.sign(NOW, BODY, [STRIPE_SECRET]), body, [STRIPE_SECRET], now=NOW)


@pytest.mark.parametrize(
    ("id", "time", "signature"),
    [
        ("", str(NOW), SIGNATURE),
        ("msg_other", str(NOW), SIGNATURE),
        (ID + ".1", str(NOW), SIGNATURE),
        (ID + "é", str(NOW), SIGNATURE),
        (ID, "", SIGNATURE),
        (ID, str(NOW + 1), SIGNATURE),
        (ID, f" {NOW}", SIGNATURE),
        (ID, f"+{NOW}", SIGNATURE),
        (ID, f"{NOW}.0", SIGNATURE),
        (ID, "١٦١٤٢٦٥٣٣٠", SIGNATURE),
        (ID, "9" * 5000, SIGNATURE),
        (ID, str(NOW), ""),
        (ID, str(NOW), "v1,"),
        (ID, str(NOW), SIGNATURE.removeprefix("v1,")),
        (ID, str(NOW), SIGNATURE.replace("v1,", "v1a,")),
        (ID, str(NOW), SIGNATURE.replace("v1,", "v2,")),
        (ID, str(NOW), SIGNATURE + "é"),
        (ID, str(NOW), "é" + SIGNATURE),
        (ID, str(NOW), "v1,ééé " + SIGNATURE),
        (ID, str(NOW), SIGNATURE[:-2]),
        (ID, str(NOW), "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        (ID, str(NOW), "v1,AAAA " * 50 + SIGNATURE),
    ],
)
def test_standard_headers_that_are_refused(id: str, time: str, signature: str) -> None:
    with pytest.raises(SignatureRefused):
        standard.verify(id, time, signature, BODY, [KEY], now=NOW)


def test_what_cannot_be_read_spoils_nothing() -> None:
    standard.verify(ID, str(NOW), f"v1,? v1a,AAAA {SIGNATURE}", BODY, [KEY], now=NOW)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sha256=",
        GITHUB_SIGNATURE.removeprefix("sha256="),
        GITHUB_SIGNATURE.replace("sha256=", "sha1="),
        GITHUB_SIGNATURE[:-1],
        GITHUB_SIGNATURE + "0",
        GITHUB_SIGNATURE.upper(),
        GITHUB_SIGNATURE[:-1] + "é",
        GITHUB_SIGNATURE[:-1] + "７",
        GITHUB_SIGNATURE[:-2] + " 7",
        "sha256=" + "0" * 64,
    ],
)
def test_github_headers_that_are_refused(signature: str) -> None:
    with pytest.raises(SignatureRefused):
        github.verify(signature, GITHUB_BODY, [GITHUB_SECRET])


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "t=1533204620",
        STRIPE_SIGNATURE.partition(",")[2],
        STRIPE_SIGNATURE.replace("v1=", "v2="),
        STRIPE_SIGNATURE.replace("t=1533204620", "t=1533204621"),
        STRIPE_SIGNATURE.replace("t=1533204620", "t=1533204620,t=1533204620"),
        STRIPE_SIGNATURE.replace("t=1533204620", "t=١٥٣٣٢٠٤٦٢٠"),
        STRIPE_SIGNATURE + "é",
        STRIPE_SIGNATURE.replace("v1=f0", "v1=é0"),
        f"t=1533204620,v1={'0' * 64}",
        f"t=1533204620,{'v1=00,' * 50}" + STRIPE_SIGNATURE.partition(",")[2],
    ],
)
def test_stripe_headers_that_are_refused(signature: str) -> None:
    with pytest.raises(SignatureRefused):
        stripe.verify(signature, STRIPE_BODY, [STRIPE_SECRET], now=STRIPE_TIME)


def test_wrong_secrets() -> None:
    with pytest.raises(SignatureRefused):
        standard.verify(ID, str(NOW), SIGNATURE, BODY, [OTHER], now=NOW)
    with pytest.raises(SignatureRefused):
        github.verify(GITHUB_SIGNATURE, GITHUB_BODY, [OTHER])
    with pytest.raises(SignatureRefused):
        stripe.verify(STRIPE_SIGNATURE, STRIPE_BODY, [OTHER], now=STRIPE_TIME)


@pytest.mark.parametrize("secrets", [[], [b""], [KEY, b""]])
def test_no_secret_is_an_error_of_ours(secrets: list[bytes]) -> None:
    """Everybody can sign with an empty key: that is nothing to verify against."""
    forged = "sha256=" + hmac.digest(b"", BODY, hashlib.sha256).hex()
    with pytest.raises(ValueError, match="secret"):
        github.verify(forged, BODY, secrets)
    with pytest.raises(ValueError, match="secret"):
        stripe.verify(STRIPE_SIGNATURE, STRIPE_BODY, secrets, now=STRIPE_TIME)
    with pytest.raises(ValueError, match="secret"):
        standard.verify(ID, str(NOW), SIGNATURE, BODY, secrets, now=NOW)
    with pytest.raises(ValueError, match="secret"):
        standard.sign(ID, NOW, BODY, secrets)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64", "whsec_é"])
def test_secrets_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="secret"):
        standard.secret_from(text)


def test_a_secret_without_its_prefix() -> None:
    assert standard.secret_from("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == KEY
    assert standard.secret_from("whsec_" + base64.b64encode(OTHER).decode()) == OTHER


@pytest.mark.parametrize("id", ["", "a.b", "é", "a\nb"])
def test_ids_that_cannot_be_signed(id: str) -> None:
    with pytest.raises(ValueError, match="webhook id"):
        standard.sign(id, NOW, BODY, [KEY])
