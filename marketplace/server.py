"""Serving the application on one socket until a signal ends it."""

import socket

import uvicorn

from marketplace.app import create_app
from marketplace.installation import InstallationError, register_webhooks
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
    except OSError as error:
        listener.close()
        raise InstallationError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error
    return listener


def serve(settings: Settings, listener: socket.socket, *, sweeps: bool) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish those in hand."""
    app = create_app(settings, sweeps=sweeps)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    server = _Server(config, settings)
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Registers webhooks and says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            register_webhooks(self._settings)
            print(f"listening on {self._settings.public_url}", flush=True)  # noqa: T201 - told to whoever started us
