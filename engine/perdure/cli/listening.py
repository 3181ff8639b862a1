"""The socket that the gateway listens on."""

import ipaddress
import socket

from perdure.cli.exits import UsageProblem
from perdure.errors import PerdureError

BACKLOG = 512


def check_loopback(host: str) -> str:
    """Raises `UsageProblem` for an address that other machines reach."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageProblem(
            f"--host {host}: other machines could send events and cancel runs there, and keys come in a later release; "
            "use 127.0.0.1 (the default), and let a proxy on this machine check who asks"
        )
    return host


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
