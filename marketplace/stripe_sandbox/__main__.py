"""`python -m marketplace.stripe_sandbox --port N --state FILE`."""

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from marketplace.stripe_sandbox.app import build_app
from marketplace.stripe_sandbox.endpoints import register_endpoint
from marketplace.stripe_sandbox.state import open_state, transaction

# Longer than any client keeps an idle connection, so that the client is always the one to close
# it: a request that meets a closing server would look like an unknown outcome.
KEEP_ALIVE_SECONDS = 75
LOCK_TRIES = 20
LOCK_WAIT_SECONDS = 0.1


def main() -> None:
    options = _options()
    if options.until_stdin_ends:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    db = open_state(_held_alone(options.state))
    with transaction(db):
        for connect, endpoints in ((False, options.webhook), (True, options.connect_webhook)):
            for url, secret in endpoints:
                register_endpoint(db, url=url, secret=secret, connect=connect)
    listener = socket.create_server((options.host, options.port))
    # asyncio does it for sockets it makes itself; without it each answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = listener.getsockname()[:2]

    def abort(client: Any) -> None:
        for connection in list(server.server_state.connections):
            if getattr(connection, "client", None) == tuple(client):
                connection.transport.abort()

    def ready() -> None:
        print(f"listening on http://{host}:{port}", flush=True)  # noqa: T201  # the parent process waits for this line

    app = build_app(db, abort=abort, ready=ready)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
    )
    server.run(sockets=[listener])


def _held_alone(state: Path) -> Path:
    """The file, locked until this process ends: keys in use and deliveries are known to one alone."""
    lock = os.open(f"{state}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return state
        # One whose parent was killed is about to end.
        time.sleep(LOCK_WAIT_SECONDS)
    print(f"another sandbox uses {state}", flush=True)  # noqa: T201  # the parent process reads it
    sys.exit(1)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m marketplace.stripe_sandbox",
        description="A stateful sandbox that speaks Stripe's wire format. Nothing here is real.",
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes a free port")
    parser.add_argument("--state", type=Path, required=True, help="SQLite file, made if absent")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--until-stdin-ends",
        action="store_true",
        help="stop when standard input does: with the parent that holds it open",
    )
    parser.add_argument(
        "--webhook",
        type=_url_and_secret,
        action="append",
        default=[],
        metavar="URL=SECRET",
        help="receives the platform's events; may be repeated",
    )
    parser.add_argument(
        "--connect-webhook",
        type=_url_and_secret,
        action="append",
        default=[],
        metavar="URL=SECRET",
        help="receives the connected accounts' events; may be repeated",
    )
    return parser.parse_args()


def _url_and_secret(text: str) -> tuple[str, str]:
    url, separator, secret = text.rpartition("=")
    if not separator or not url.startswith(("http://", "https://")) or not secret:
        raise argparse.ArgumentTypeError("expected URL=SECRET")
    return url, secret


if __name__ == "__main__":
    main()
