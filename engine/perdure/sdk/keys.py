"""API keys: what they may do, and how a gateway knows them.

A key is 32 bytes of chance as text. Who asks has the key; a gateway has a line for each that it takes, with the digest
of the key in it: `web send,read sha256:…`. It needs no salt, since nobody can guess what it was made of.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from msgspec import Struct

from perdure.errors import DefinitionError
from perdure.sdk.environment import from_environment, read_text

Scope = Literal["send", "read", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""`send`: events in, background functions called. `read`: look, and wait for results. `operate`: cancel,
run again, unpark, pause, resume."""

PREFIX = "perdure_"
"""So that people, and what looks for secrets in repositories, know what they have found."""

LONGEST = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_KEY = re.compile(rf"[!-~]{{1,{LONGEST}}}")
_KEY_ITSELF = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


class Grant(Struct, frozen=True):
    """What the key of this digest may do."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes

    def line(self) -> str:
        """As `Keyring.parse` reads it."""
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        return f"{self.name} {scopes} sha256:{self.digest.hex()}"


class Keyring:
    """The keys that a gateway takes. One without any is false, and asks for none."""

    def __init__(self, grants: Sequence[Grant] = ()) -> None:
        self._grants = tuple(grants)

    def __len__(self) -> int:
        return len(self._grants)

    @classmethod
    def parse(cls, text: str) -> "Keyring":
        """Lines `NAME SCOPES sha256:DIGEST` (`;` ends one too, `#` begins a comment), or `@FILE` for a file of them.

        Raises `DefinitionError`, which never shows what stands there: it may be a key.
        """
        if text.startswith("@"):
            text = read_text(text[1:], f"keys={text}")
        if not text.strip():
            return cls()
        lines = [line.partition("#")[0].strip() for line in text.replace(";", "\n").splitlines()]
        grants = [_grant(line, number) for number, line in enumerate(lines, 1) if line]
        if not grants:
            raise DefinitionError("keys: there is no line but comments: `perdure keys new` makes a key and its line")
        return cls(grants)

    def find(self, key: str) -> Grant | None:
        """The grant of this key. How long it takes tells nothing: every digest is compared whole."""
        digest = _digest(key)
        found = None
        for grant in self._grants:
            if hmac.compare_digest(grant.digest, digest):
                found = grant
        return found


def new_key(scopes: Iterable[Scope], name: str = "") -> tuple[str, Grant]:
    """A key, and what a gateway keeps of it. Raises `DefinitionError`."""
    key = PREFIX + secrets.token_urlsafe(32)
    digest = _digest(key)
    grant = Grant(name or f"key-{digest.hex()[:8]}", frozenset(scopes), digest)
    if not _NAME.fullmatch(grant.name):
        raise DefinitionError(
            "the name of a key has letters, digits, '.', '_' and '-', and begins with one of the first"
        )
    if not grant.scopes:
        raise DefinitionError(f"what may the key do? give at least one scope of {', '.join(SCOPES)}")
    return key, grant


def api_key(given: str = "") -> str:
    """The key that a client sends: the one given, else `PERDURE_API_KEY`, else that of its file; empty for none."""
    key = (given or from_environment("PERDURE_API_KEY")).strip()
    if key and not _KEY.fullmatch(key):
        raise DefinitionError(
            f"the API key holds what no key does, such as a space or a letter beyond ASCII, or is over {LONGEST} long: "
            "copy it again, as `perdure keys new` printed it"
        )
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _grant(line: str, number: int) -> Grant:
    where = f"keys, line {number}"
    if _KEY_ITSELF.search(line):
        raise DefinitionError(
            f"{where}: this is a key itself, which belongs to who asks (PERDURE_API_KEY); here stands the line that "
            "`perdure keys new` printed below it. Make a new one if others could read this"
        )
    name, *rest = line.split()
    digest = _DIGEST.fullmatch(rest[-1]) if len(rest) == 2 else None
    if digest is None or not _NAME.fullmatch(name):
        raise DefinitionError(f"{where}: NAME SCOPES sha256:DIGEST is needed, as `perdure keys new` prints it")
    return Grant(name, _scopes(rest[0], where), bytes.fromhex(digest[1]))


def _scopes(text: str, where: str) -> frozenset[Scope]:
    named = text.split(",")
    known: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope in named)
    if len(known) != len(set(named)):
        raise DefinitionError(f"{where}: scopes are {', '.join(SCOPES)}, with commas and no spaces between them")
    return known
