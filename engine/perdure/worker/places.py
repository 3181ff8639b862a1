"""Where payloads lie that are too large for the log: a folder, or whatever fsspec reaches.

A payload's name is the digest of its content: it is written once, never changed, and may be shared by many runs. What
is written again is written anew, so that the age of a file says when it was last needed by a record.
"""

import importlib
import os
import secrets
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from perdure.errors import LogError


class Place(Protocol):
    """Called in threads. Errors are the library's own."""

    @property
    def url(self) -> str: ...

    def write(self, name: str, data: bytes, /) -> None:
        """Durable when it returns, and whole: nobody ever finds a part."""
        ...

    def read(self, name: str, /) -> bytes: ...


def digest_of(data: bytes) -> str:
    """Names a payload by its content, also where others may write."""
    return "b2-" + blake2b(data, digest_size=32).hexdigest()


def open_place(url: str) -> Place | None:
    """`file:///folder`, or a URL that fsspec knows, as `s3://bucket/folder`. None for none.

    Raises `LogError`, which says what is wrong.
    """
    if not url:
        return None
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise LogError(f"payloads={url!r} is no URL: say file:///var/lib/shop/payloads or s3://bucket/folder")
    return Folder(url) if scheme == "file" else Remote(url)


class Folder:
    """On a disk that every pod of the app reaches. Open it before the first write."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.netloc or not parts.path.strip("/"):
            raise LogError(f"payloads={url!r} names no folder: say file:///var/lib/shop/payloads, with three slashes")
        self.url = url
        self._path = Path(unquote(parts.path))
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(f"payloads={url!r}: the folder cannot be made: {error}") from error
        if not os.access(self._path, os.R_OK | os.W_OK | os.X_OK):
            raise LogError(f"payloads={url!r}: the folder may not be written by this process")

    def write(self, name: str, data: bytes, /) -> None:
        part = self._path / f".{name}.{secrets.token_hex(4)}"
        try:
            with open(part, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path / name)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, name: str, /) -> bytes:
        return (self._path / name).read_bytes()


class Remote:
    """Object stores and all else that fsspec reaches; they take an object whole or not at all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files: Any
        try:
            self._files, self._path = importlib.import_module("fsspec.core").url_to_fs(url)
        except ImportError as error:
            raise LogError(
                f"payloads={url!r} needs fsspec and its library for this place ({error}): "
                "pip install 'perdure[payloads]', and s3fs for s3://, gcsfs for gs://"
            ) from error
        except ValueError as error:
            raise LogError(f"payloads={url!r}: {error}") from error

    def write(self, name: str, data: bytes, /) -> None:
        self._files.pipe_file(f"{self._path}/{name}", data)

    def read(self, name: str, /) -> bytes:
        data: bytes = self._files.cat_file(f"{self._path}/{name}")
        return data
