"""Every request has an id, one line in the log, and its place in the metrics."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.shared import logs, metrics
from marketplace.shared.ids import new_id

log = logging.getLogger(__name__)

NO_ROUTE = "no_such_path"
# What a browser asks before it asks; answered for every path alike.
PREFLIGHT = "preflight"


class Observed:
    """The id is on the answer, in the audit and on every line that the request logs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(new_id())
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.monotonic(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        with logs.about(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                _note(scope, status, time.monotonic() - started)


def _note(scope: Scope, status: int, seconds: float) -> None:
    """By the operation's name: a path may hold a secret, as a download link does."""
    route = scope.get("route")
    unrouted = PREFLIGHT if scope["method"] == "OPTIONS" and status == 200 else NO_ROUTE
    operation = str(getattr(route, "name", unrouted))
    metrics.answered(operation, status, seconds)
    fields = {
        "method": scope["method"],
        "operation": operation,
        "status": status,
        "milliseconds": round(seconds * 1000, 1),
        "actor": scope["state"].get("actor"),
    }
    log.log(_level(status), "%s %s", operation, status, extra={"fields": fields})


def _level(status: int) -> int:
    """503 asks the caller to try again: worth a look, no fault of ours."""
    if status < 500:
        return logging.INFO
    return logging.WARNING if status == 503 else logging.ERROR
