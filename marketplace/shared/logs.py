"""One JSON object per line on standard error: what happened, in which request or sweep.

Secrets never get there: neither those that we make, nor Stripe's, nor passwords in addresses, nor
the values that a database error quotes.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

# What every line of the work in hand says: its request's id, its sweep's name.
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))

SECRETS = re.compile(
    r"""(?x)
    mkt_[a-z]+_[\w-]{20,}                      # our own tokens and codes
    | (?:sk|rk)_(?:test|live)_\w+ | whsec_\w+  # Stripe's
    | (?<=://)[^\s:/@]+:[^\s/@]+(?=@)          # login and password in an address
    | (?<=Bearer\ )\S+
    | \$argon2\w+\$\S+
    """
)
# What PostgreSQL quotes of a refused row: `Key (email)=(…)`, `Failing row contains (…)`. Free text has
# lines of its own, so it goes on to the server's next field, to what SQLAlchemy or Python say next, or
# to the end.
QUOTED_ROWS = re.compile(
    r"(?ms)^(DETAIL|CONTEXT): .*?(?=\n(?:(?:DETAIL|HINT|QUERY|CONTEXT|LOCATION): |\[SQL: "
    r"|The above exception was |During handling of the above )|\Z)"
)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **_about.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def redacted(text: str) -> str:
    return QUOTED_ROWS.sub(r"\1: …", SECRETS.sub("…", text))


@contextmanager
def written_as_json(level: str) -> Iterator[None]:
    """While this lasts, everything that is logged in this process, libraries' words included."""
    root = logging.getLogger()
    before = root.handlers, root.level
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root.handlers, root.level = [handler], logging.getLevelNamesMapping()[level]
    # Told better, and without the address, by our own line of each request.
    for name in ("httpx", "httpcore", "stripe", "apscheduler", "alembic"):
        logging.getLogger(name).setLevel("WARNING")
    try:
        yield
    finally:
        root.handlers, root.level = before


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Every line logged within, in this task and those it starts, carries these fields."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)
