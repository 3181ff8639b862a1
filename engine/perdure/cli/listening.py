"""The socket that the gateway listens on."""

import ipaddress
import socket

from perdure.cli.exits import UsageProblem
from perdure.errors import PerdureError
from perdure.sdk.keys import Keyring

BACKLOG = 512


def check_loopback(host: str) -> str:
    """Raises `UsageProblem` for an address that other machines reach."""
    if not _is_loopback(host):
        raise UsageProblem(
            f"--host {host}: `dev` is for this machine alone, use 127.0.0.1 (the default); `perdure serve` with keys "
            "answers others"
        )
    return host


def check_guarded(host: str, keys: Keyring, option: str = "--host") -> str:
    """Raises `UsageProblem` for an address that other machines reach, if nobody asks them for a key."""
    if not keys and not _is_loopback(host):
        raise UsageProblem(
            f"{option} {host}: other machines reach it, and there are no keys: `perdure keys new` makes one; put its "
            "line into PERDURE_KEYS, or into a file that PERDURE_KEYS_FILE names. Or use 127.0.0.1, the default"
        )
    return host


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Listens already, so that requests wait while an engine starts. Raises `PerdureError` if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PerdureError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): is an engine running there? "
            "stop it, or take another --port"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where it can be reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
