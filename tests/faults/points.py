"""The points of a process at which it can fail, found by themselves, and what happens at one of them.

Every SQL statement, every COMMIT and every call to Stripe is a point; those of one label are numbered
from the process's first request on, so that what happens side by side in another order, or beside
them, moves no number. Only `tests.faults.launcher` installs this; the product knows nothing of it.
"""

import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialectAsync_psycopg

from marketplace.shared.settings import Settings
from marketplace.stripe_api import gateway_requests

COMMENTS = re.compile(r"--.*")
TABLE = re.compile(r"(?i)\b(?:FROM|INTO|UPDATE|JOIN)\s+([a-z_]+)")
FUNCTION = re.compile(r"\b([a-z_]+)\(")
IDS = re.compile(r"/[a-z]+_\w{8,}")


class Kind(StrEnum):
    """What happens at a point; any other kind is a fault of the sandbox's, at a call to Stripe."""

    KILLED_BEFORE = "killed_before"
    KILLED_AFTER = "killed_after"
    STOPPED_BEFORE = "stopped_before"  # until somebody lets it go on
    CONNECTION_LOST = "connection_lost"
    BACKEND_TERMINATED = "backend_terminated"
    REPLY_LOST = "reply_lost"  # of a COMMIT that has happened


@dataclass(frozen=True)
class Fault:
    """At the `number`th point of this label, `kind` happens."""

    label: str
    number: int
    kind: str


@dataclass(frozen=True)
class Point:
    """One point as a process came to it, and the kind of fault that happened there, if any."""

    what: str  # "sql", "commit", "call", or "event": one that Stripe tells of
    label: str
    number: int = 1
    fired: str | None = None


class Points:
    """Counts the points of this process, tells of each, and lets the fault happen at its own."""

    def __init__(self, fault: Fault | None, told: Path, settings: Settings) -> None:
        self.fault, self.settings = fault, settings
        self.seen: Counter[str] = Counter()
        self.told = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def install(self) -> None:
        sa.event.listen(sa.Engine, "before_cursor_execute", self._before_statement)
        sa.event.listen(sa.Engine, "after_cursor_execute", self._after_statement)
        PGDialectAsync_psycopg.do_commit = self._commit(PGDialectAsync_psycopg.do_commit)  # type: ignore[method-assign] # in its own process alone
        gateway_requests.HttpClient.request = self._call(gateway_requests.HttpClient.request)  # type: ignore[method-assign] # in its own process alone

    def reach(self, what: str, label: str) -> str | None:
        """One more point; answers the kind of fault that is to happen at it."""
        self.seen[label] += 1
        number, due = self.seen[label], self.fault
        kind = due.kind if due and (due.label, due.number) == (label, number) else None
        line = json.dumps(asdict(Point(what, label, number, kind)))
        os.write(self.told, f"{line}\n".encode())
        if kind == Kind.KILLED_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == Kind.STOPPED_BEFORE:
            os.kill(os.getpid(), signal.SIGSTOP)
        return kind

    def _before_statement(
        self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any
    ) -> None:
        kind = self.reach("sql", label_of(statement))
        # Looked at when the statement is done.
        connection.info["fault"] = kind
        self._break(connection.connection, kind)

    def _after_statement(self, connection: sa.Connection, *_: Any) -> None:
        if connection.info.pop("fault", None) == Kind.KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    def _commit(self, commit: Callable[..., None]) -> Callable[..., None]:
        def do_commit(dialect: Any, connection: Any) -> None:
            kind = self.reach("commit", "COMMIT")
            self._break(connection, kind)
            commit(dialect, connection)
            if kind == Kind.KILLED_AFTER:
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == Kind.REPLY_LOST:
                cut(connection)
                # The driver's own words about it, in the place of the answer.
                connection.cursor().execute("SELECT 1")

        return do_commit

    def _call(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        async def request(client: Any, method: str, url: Any, **rest: Any) -> Any:
            path = urlsplit(str(url)).path
            kind = self.reach("call", f"{method.upper()} {IDS.sub('/…', path)}")
            if kind and kind not in set(Kind):
                self._plan(method.upper(), path, kind)
            answer = await ask(client, method, url, **rest)
            if kind == Kind.KILLED_AFTER:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return request

    def _plan(self, method: str, path: str, kind: str) -> None:
        planned = {"method": method, "path": f"{re.escape(path)}$", "kind": kind}
        answer = httpx.post(
            f"{self.settings.stripe_api_base}/_sandbox/faults", json=planned, trust_env=False
        )
        assert answer.status_code == 201, answer.text

    def _break(self, connection: Any, kind: str | None) -> None:
        if kind == Kind.CONNECTION_LOST:
            cut(connection)
        elif kind == Kind.BACKEND_TERMINATED:
            pid = connection.driver_connection.info.backend_pid
            with psycopg.connect(self.settings.database_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def cut(connection: Any) -> None:
    """No byte goes through the connection's socket any more, either way."""
    with socket.socket(fileno=os.dup(connection.driver_connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def label_of(statement: str) -> str:
    """Its verb, and its (first) table or function."""
    bare = COMMENTS.sub("", statement)
    named = TABLE.search(bare) or FUNCTION.search(bare)
    return " ".join([bare.split(None, 1)[0].upper(), *([named[1]] if named else [])])


def read_points(told: Path) -> list[Point]:
    if not told.exists():
        return []
    return [Point(**json.loads(line)) for line in told.read_text().splitlines()]
