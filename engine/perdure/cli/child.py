"""The engine process of `perdure dev`: `python -m perdure.cli.child`, started by the supervisor alone."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import msgspec

from perdure.cli import exits
from perdure.cli.banner import announce, announce_again
from perdure.cli.loading import BrokenApp, outside_folders
from perdure.cli.orders import Orders, Ready, Started
from perdure.cli.output import console, print_error
from perdure.cli.running import run
from perdure.errors import PerdureError


def main(argument: str) -> int:
    """The exit code tells the supervisor whether other code could help (1) or nothing will (5)."""
    link = socket.socket(fileno=int(argument))
    with link.makefile("rb") as told:
        orders = msgspec.json.decode(told.readline(), type=Orders)
    # Ctrl-C reaches all of the terminal's processes: the supervisor alone decides, and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_supervisor, args=(link,), daemon=True).start()

    def ready(what: Ready) -> None:
        if orders.first:
            note = "restarts when a Python file changes" if orders.reload else "as it is now"
            announce(what, note=f"{orders.served.app}, {note}", as_json=orders.as_json)
        else:
            announce_again(what, time.time() - orders.asked_at, as_json=orders.as_json)
        link.sendall(msgspec.json.encode(Started(outside_folders(Path.cwd()))) + b"\n")

    try:
        with socket.socket(fileno=orders.listener) as listener:
            run(orders.served, listener, ready, lambda: None)
    except PerdureError as error:
        print_error(error, as_json=orders.as_json)
        return exits.FAILED if isinstance(error, BrokenApp) else exits.code_of(error)
    except Exception:
        # A lifespan that fails, or a fault of ours: the whole traceback is what helps.
        console(stderr=True).print_exception()
        return exits.FAILED
    return exits.OK


def _die_with_the_supervisor(link: socket.socket) -> None:
    """An engine whose supervisor was killed would hold the log, and nobody could start another."""
    try:
        while link.recv(1):
            pass
    finally:
        # Also when it is told as a reset connection: a supervisor that died before it read our answer.
        os._exit(exits.KILLED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
