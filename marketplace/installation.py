"""The parts a program runs on: what the environment names, and embedded ones for the rest.

Without DATABASE_URL a PostgreSQL server is started in the data folder; without STRIPE_API_KEY the
Stripe sandbox is. Both stop with the program. While it runs, `running.env` in the data folder tells
other programs of the same user how to reach them.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from marketplace import migrate
from marketplace.shared.database import driver_url
from marketplace.shared.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from marketplace.shared.settings import Settings

DEFAULT_DATA = Path("data")
SANDBOX_KEY = "sk_test_sandbox"
SANDBOX_STATE = "stripe-sandbox.sqlite"
SANDBOX_STOP_SECONDS = 20
CONTROL = "/_sandbox"


class InstallationError(Exception):
    """One line that says what to do."""


@contextmanager
def parts_in(data: Path, *, virtual_clock: bool = False) -> Iterator[dict[str, str]]:
    """Environment variables for a running database and Stripe, started as needed.

    Raises InstallationError. With `virtual_clock` a new database can be moved through time.
    """
    with (
        database_in(data, virtual_clock=virtual_clock) as database,
        _stripe(data) as stripe,
    ):
        storage = os.environ.get("STORAGE_URL") or str((data / "files").resolve())
        yield {**database, **stripe, "STORAGE_URL": storage}


@contextmanager
def database_in(data: Path, *, virtual_clock: bool = False) -> Iterator[dict[str, str]]:
    """Environment variables for a running database alone. Raises InstallationError."""
    with _database(data, virtual_clock=virtual_clock) as database:
        _check_logins(database)
        yield database


@contextmanager
def _database(data: Path, *, virtual_clock: bool) -> Iterator[dict[str, str]]:
    if os.environ.get("DATABASE_URL"):
        yield _named_database(virtual_clock=virtual_clock)
        return
    try:
        data.mkdir(parents=True, exist_ok=True)
        with EmbeddedPostgres(data / "postgres") as server:
            urls = {
                "DATABASE_URL": server.application_url,
                "MIGRATION_DATABASE_URL": server.owner_url,
            }
            _migrate(urls, virtual_clock=virtual_clock)
            yield urls
    except EmbeddedPostgresError as error:
        raise InstallationError(str(error)) from error
    except OSError as error:
        raise InstallationError(
            f"{data} cannot be used: {error.strerror}; choose --data"
        ) from error


def _named_database(*, virtual_clock: bool) -> dict[str, str]:
    """The database of DATABASE_URL; migrated here only if MIGRATION_DATABASE_URL is set."""
    urls = {"DATABASE_URL": _address("DATABASE_URL")}
    if os.environ.get("MIGRATION_DATABASE_URL"):
        urls["MIGRATION_DATABASE_URL"] = _address("MIGRATION_DATABASE_URL")
        _migrate(urls, virtual_clock=virtual_clock)
    return urls


def owner_url(variables: Mapping[str, str]) -> str | None:
    """The login that owns the database, from running parts or from the environment."""
    if "MIGRATION_DATABASE_URL" in variables:
        return variables["MIGRATION_DATABASE_URL"]
    named = os.environ.get("MIGRATION_DATABASE_URL")
    return _address("MIGRATION_DATABASE_URL") if named else None


def _address(name: str) -> str:
    """The environment's PostgreSQL URL; a complaint does not repeat it, as it holds a password."""
    url = os.environ[name]
    try:
        url.encode()
        kind = sa.make_url(url).drivername.partition("+")[0]
    except (sa.exc.ArgumentError, ValueError):
        kind = ""
    if kind not in {"postgresql", "postgres"}:
        raise InstallationError(
            f"{name} is not an address such as postgresql://login:password@host:5432/database"
        )
    return url


def _migrate(urls: Mapping[str, str], *, virtual_clock: bool) -> None:
    try:
        migrate.migrate(urls["MIGRATION_DATABASE_URL"], urls["DATABASE_URL"])
        if virtual_clock:
            make_clock_virtual(urls["MIGRATION_DATABASE_URL"])
    except migrate.PostgresqlTooOld as error:
        raise InstallationError(str(error)) from error
    except sa.exc.DBAPIError as error:
        raise InstallationError(
            f"the database cannot be used as its owner: {_first_line(error)}"
        ) from error


def _first_line(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]


def make_clock_virtual(owner_url: str) -> None:
    """Let this database's clock be moved. Refused by the database once anything was booked."""
    try:
        _as_owner(owner_url, "UPDATE clock SET is_virtual = true WHERE NOT is_virtual")
    except sa.exc.IntegrityError as error:
        raise InstallationError(
            "this database has bookings in real time; a virtual clock needs a new one: "
            "choose another --data"
        ) from error


def advance_clock(owner_url: str, stripe_api_base: str | None, seconds: int) -> int:
    """Move a virtual clock forward, the sandbox's with it; answers the new offset in seconds."""
    if stripe_api_base is None:
        raise InstallationError("time can be moved only with the Stripe sandbox")
    try:
        offset = _as_owner(
            owner_url,
            f"UPDATE clock SET offset_seconds = offset_seconds + {int(seconds)}"  # noqa: S608 - an integer
            " RETURNING offset_seconds",
        )
    except sa.exc.IntegrityError as error:
        raise InstallationError(
            "this database keeps real time; only a new demo or test database can be moved"
        ) from error
    except sa.exc.DBAPIError as error:
        raise InstallationError(f"the clock cannot be moved: {_first_line(error)}") from error
    with _asking_the_sandbox():
        httpx.put(
            f"{stripe_api_base}{CONTROL}/clock", json={"offset_seconds": offset}, trust_env=False
        ).raise_for_status()
    return offset


@contextmanager
def _asking_the_sandbox() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InstallationError(f"the Stripe sandbox does not answer: {error}") from error


def _as_owner(owner_url: str, statement: str) -> int:
    engine = sa.create_engine(driver_url(owner_url))
    try:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return int(result.scalar_one()) if result.returns_rows else 0
    finally:
        engine.dispose()


def _check_logins(urls: Mapping[str, str]) -> None:
    """The application's login must not be able to lift its own guards."""
    engine = sa.create_engine(driver_url(urls["DATABASE_URL"]))
    try:
        with engine.connect() as connection:
            if migrate.pending(connection):
                raise InstallationError(
                    "the database lacks migrations: set MIGRATION_DATABASE_URL and run "
                    "`marketplace migrate`"
                )
            if connection.exec_driver_sql(CAN_LIFT_GUARDS).scalar():
                raise InstallationError(
                    "DATABASE_URL's login is a superuser, makes roles, or owns what is in the "
                    "database, so it could lift the ledger's guards: use a login that owns nothing"
                )
    except sa.exc.DBAPIError as error:
        raise InstallationError(f"the database cannot be used: {_first_line(error)}") from error
    finally:
        engine.dispose()


# Owners of a schema or a function may drop what stands in their way, too.
CAN_LIFT_GUARDS = """
    SELECT rolsuper OR rolcreaterole
        OR has_schema_privilege(schema.oid, 'CREATE')
        OR pg_has_role(nspowner, 'MEMBER')
        OR has_table_privilege('public.account_balance', 'UPDATE')
        OR EXISTS (
            SELECT FROM pg_class
            WHERE relnamespace = schema.oid AND pg_has_role(relowner, 'MEMBER')
        )
        OR EXISTS (
            SELECT FROM pg_proc
            WHERE pronamespace = schema.oid AND pg_has_role(proowner, 'MEMBER')
        )
    FROM pg_roles, pg_namespace AS schema
    WHERE rolname = current_user AND nspname = 'public'
"""


@contextmanager
def _stripe(data: Path) -> Iterator[dict[str, str]]:
    if os.environ.get("STRIPE_API_KEY"):
        names = (
            "STRIPE_API_KEY",
            "STRIPE_API_BASE",
            "STRIPE_WEBHOOK_SECRET",
            "STRIPE_CONNECT_WEBHOOK_SECRET",
        )
        yield {name: os.environ[name] for name in names if name in os.environ}
        return
    with sandbox(data / SANDBOX_STATE) as base:
        yield {
            "STRIPE_API_KEY": SANDBOX_KEY,
            "STRIPE_API_BASE": base,
            # Nobody but us asks it.
            "STRIPE_REQUESTS_PER_SECOND": "1000",
            "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(24)}",
            "STRIPE_CONNECT_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(24)}",
        }


@contextmanager
def sandbox(state: Path, *, port: int = 0) -> Iterator[str]:
    """The Stripe sandbox as a process of its own; answers its base address."""
    _make(state.parent)
    process = subprocess.Popen(  # noqa: S603 - our own program
        [
            *(sys.executable, "-m", "marketplace.stripe_sandbox"),
            *("--port", str(port), "--state", str(state), "--until-stdin-ends"),
        ],
        # Held open by us alone: killed, we take the sandbox with us.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # The terminal's Ctrl-C is for our program, which then stops the sandbox in order.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            why = line.strip() or "its message stands above"
            raise InstallationError(f"the Stripe sandbox did not start: {why}")
        yield line.removeprefix("listening on ").strip()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=SANDBOX_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()


def register_webhooks(settings: Settings) -> None:
    """Tell the sandbox where to send its events; at Stripe itself you do so in its dashboard."""
    if settings.stripe_api_base is None:
        return
    endpoints = f"{settings.stripe_api_base}{CONTROL}/webhook_endpoints"
    with _asking_the_sandbox(), httpx.Client(trust_env=False, timeout=10) as http:
        for endpoint in http.get(endpoints).raise_for_status().json():
            # Another process that starts now may have been quicker.
            http.delete(f"{endpoints}/{endpoint['id']}")
        for name, secret, connect in (
            ("platform", settings.stripe_webhook_secret, False),
            ("connect", settings.stripe_connect_webhook_secret, True),
        ):
            http.post(
                endpoints,
                json={
                    "url": f"{settings.public_url}/v1/stripe/webhooks/{name}",
                    "secret": secret.get_secret_value(),
                    "connect": connect,
                },
            ).raise_for_status()


def settings_from(variables: Mapping[str, str], **overrides: Any) -> Settings:
    """Settings from the environment, with the running parts' variables on top."""
    values = {name.lower(): value for name, value in variables.items()}
    values.pop("migration_database_url", None)
    return Settings(**{**values, **overrides})


@contextmanager
def announced(data: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """`running.env` in the data folder, for us alone, while the program runs."""
    _make(data)
    file = data / "running.env"
    text = "".join(f"export {name}={json.dumps(value)}\n" for name, value in variables.items())
    # Written whole under a name of its own: several processes may serve from one folder.
    handle, draft = tempfile.mkstemp(prefix="running-", dir=data)
    with os.fdopen(handle, "w") as out:
        out.write(text)
    Path(draft).replace(file)
    try:
        yield
    finally:
        with suppress(OSError):
            if file.read_text() == text:
                file.unlink()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstallationError(
            f"{folder} cannot be used: {error.strerror}; choose --data"
        ) from error


@contextmanager
def parts_for_command(data: Path) -> Iterator[dict[str, str]]:
    """The parts of the program that runs on this data folder, or our own for a moment."""
    named = os.environ.get("DATABASE_URL")
    running = _running_parts(data)
    if running is not None and named in {None, "", running["DATABASE_URL"]}:
        yield running
        return
    if not named and not (data / "postgres").exists():
        raise InstallationError(f"there is no data in {data}; choose --data or set DATABASE_URL")
    with parts_in(data) as parts:
        yield parts


def _running_parts(data: Path) -> dict[str, str] | None:
    """What a program that still runs announced; a kill leaves the file behind."""
    try:
        lines = (data / "running.env").read_text().splitlines()
    except OSError:
        return None
    pairs = (line.removeprefix("export ").partition("=") for line in lines)
    variables = {name: json.loads(value) for name, _, value in pairs}
    return variables if _still_run(variables) else None


def _still_run(parts: Mapping[str, str]) -> bool:
    engine = sa.create_engine(driver_url(parts["DATABASE_URL"]))
    try:
        engine.connect().close()
        if stripe_api_base := parts.get("STRIPE_API_BASE"):
            httpx.get(f"{stripe_api_base}{CONTROL}/clock", trust_env=False)
    except (sa.exc.OperationalError, httpx.HTTPError):
        return False
    finally:
        engine.dispose()
    return True
