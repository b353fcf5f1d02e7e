"""Serving the application on one socket until a signal ends it."""

import socket

import uvicorn

from marketplace.app import create_app
from marketplace.installation import InstallationError, register_webhooks
from marketplace.shared import logs
from marketplace.shared.settings import Settings


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket (port 0: a free one). `shared` lets other processes take the port, too."""
    # The protocol is named so that asyncio turns Nagle's delay off on every connection.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or "there is no such host"
        raise InstallationError(
            f"cannot listen on {host}:{port}: {why}; choose another --host or --port"
        ) from error
    return listener


def serve(settings: Settings, listener: socket.socket, *, sweeps: bool) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish those in hand.

    Raises InstallationError when the sandbox cannot be told where to send its events.
    """
    app = create_app(settings, sweeps=sweeps)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    server = _Server(config, settings)
    with logs.written_as_json(settings.log_level):
        server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """Registers webhooks and says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings
        self.failure: InstallationError | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            try:
                register_webhooks(self._settings)
            except InstallationError as error:
                # Raised when all has stopped in order; from here it would leave the rest hanging.
                self.failure, self.should_exit = error, True
                return
            print(f"listening on {self._settings.public_url}", flush=True)  # noqa: T201 - told to whoever started us
