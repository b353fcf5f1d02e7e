"""A backup is one folder: the database as SQL, the chain's head, and what an installation without
services of its own keeps beside it (the sandbox's state, the folder of takes).

A bucket's files and Stripe's own records are kept by their providers.
"""

import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from marketplace import migrate
from marketplace.installation import SANDBOX_STATE, InstallationError, owner_url
from marketplace.recordings.storage import folder_of
from marketplace.shared.database import driver_url
from marketplace.shared.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from marketplace.shared.embedded_postgres.programs import bin_folder, last_line

DATABASE = "database.sql"
SANDBOX = "stripe-sandbox.sqlite"
FILES = "files"
HEAD = "seal-head"
SUMS = "SHA256SUMS"
# Heads kept since the database was read belong to no chain that is in the backup; it has its own.
NOT_COPIED = shutil.ignore_patterns(".unfinished", "seals")


def make(folder: Path, data: Path, variables: Mapping[str, str], *, head: str | None) -> None:
    """Write the backup; the folder appears when it is whole. Raises InstallationError."""
    owner = owner_url(variables)
    if owner is None:
        raise InstallationError("set MIGRATION_DATABASE_URL: only the owner reads every table")
    with _growing(folder) as unfinished:
        _run(
            "pg_dump",
            owner,
            "--format=plain",
            "--no-owner",
            "--no-privileges",
            f"--file={unfinished / DATABASE}",
        )
        # After the database, so that Stripe knows whatever the database does.
        if (data / SANDBOX_STATE).exists():
            _copy_sqlite(data / SANDBOX_STATE, unfinished / SANDBOX)
        takes = folder_of(variables["STORAGE_URL"])
        if takes is not None and takes.is_dir():
            shutil.copytree(takes, unfinished / FILES, ignore=NOT_COPIED)
        (unfinished / HEAD).write_text(f"{head or ''}\n", encoding="ascii")
        (unfinished / SUMS).write_text("".join(sums_of(unfinished)), encoding="utf-8")


@contextmanager
def _growing(folder: Path) -> Iterator[Path]:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    if folder.exists():
        raise InstallationError(f"{folder} is there already: choose another name")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, parents=True)
        yield unfinished
        unfinished.rename(folder)
    except OSError as error:
        raise InstallationError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _run(program: str, url: str, *arguments: str) -> None:
    """One of PostgreSQL's own programs; the password is told by its environment alone."""
    address = sa.make_url(url)
    password = address.password or ""
    named = address.set(drivername="postgresql", password=None)
    command = [str(bin_folder() / program), *arguments]
    command.append(f"--dbname={named.render_as_string(hide_password=False)}")
    done = subprocess.run(  # noqa: S603 - PostgreSQL's own programs
        command,
        env={"PATH": os.defpath, "LC_ALL": "C", "PGTZ": "UTC", "PGPASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InstallationError(f"{program} failed: {last_line(done.stderr)}")


def _copy_sqlite(source: Path, target: Path) -> None:
    """Whole, also while the sandbox writes."""
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def sums_of(folder: Path) -> Iterator[str]:
    """As `sha256sum` writes them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / SUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield f"{digest}  {path.relative_to(folder)}\n"


def head_of(folder: Path) -> str | None:
    return (folder / HEAD).read_text(encoding="ascii").strip() or None


def restore(folder: Path, data: Path) -> None:
    """Bring a backup into an empty installation: a new data folder, or DATABASE_URL's database.

    Raises InstallationError, and then has changed nothing that was there.
    """
    _check_whole(folder)
    application = os.environ.get("DATABASE_URL")
    owner = _empty_database() if application else None
    if owner is None and (data / "postgres").exists():
        raise InstallationError(f"{data} holds a database already: choose another --data")
    with _copied(_free_places(folder, data)):
        if owner is not None and application is not None:
            _load(folder, owner, application)
        else:
            _load_embedded(folder, data)


def _empty_database() -> str:
    """The owner's login to the database that DATABASE_URL names."""
    owner = owner_url({})
    if owner is None:
        raise InstallationError("set MIGRATION_DATABASE_URL to the login that owns the database")
    if _holds_tables(owner):
        raise InstallationError("the database is not empty: restore into a new one")
    return owner


def _free_places(folder: Path, data: Path) -> dict[Path, Path]:
    """Where what is kept beside the database goes to; nothing may be there yet."""
    places = {}
    if (folder / SANDBOX).exists():
        places[folder / SANDBOX] = data / SANDBOX_STATE
    if (folder / FILES).exists():
        takes = folder_of(os.environ.get("STORAGE_URL") or data / "files")
        if takes is None:
            raise InstallationError(
                "the backup holds a folder of takes, and STORAGE_URL names none: let it name one,"
                " and copy them into the bucket afterwards"
            )
        places[folder / FILES] = takes
    for place in places.values():
        # SQLite would take what a log of another file says for this one's.
        beside = [place.with_name(place.name + end) for end in ("-wal", "-shm")]
        for name in (place, *beside):
            if name.exists() and not (name.is_dir() and not any(name.iterdir())):
                raise InstallationError(f"{name} is there already: restore where nothing is")
    return places


@contextmanager
def _copied(places: Mapping[Path, Path]) -> Iterator[None]:
    """Copy, and take it away again if the rest fails."""
    try:
        for source, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True)
            else:
                shutil.copy(source, place)
        yield
    except BaseException as error:
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                place.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InstallationError(f"the backup cannot be restored: {error}") from error
        raise


def _check_whole(folder: Path) -> None:
    try:
        expected = (folder / SUMS).read_text(encoding="utf-8")
        found = "".join(sums_of(folder))
    except OSError as error:
        raise InstallationError(f"{folder} is no backup: {error.strerror}") from error
    if found != expected:
        changed = sorted({*expected.splitlines()} ^ {*found.splitlines()})
        name = changed[0].partition("  ")[2]
        raise InstallationError(
            f"{folder} is not as it was made: {name} differs; use another backup"
        )


def _load_embedded(folder: Path, data: Path) -> None:
    try:
        with EmbeddedPostgres(data / "postgres") as server:
            _load(folder, server.owner_url, server.application_url)
    except BaseException as error:
        # Half a database must not be taken for a whole one.
        shutil.rmtree(data / "postgres", ignore_errors=True)
        if isinstance(error, EmbeddedPostgresError):
            raise InstallationError(str(error)) from error
        raise


def _load(folder: Path, owner: str, application: str) -> None:
    _run(
        "psql",
        owner,
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        f"--file={folder / DATABASE}",
        "--output=/dev/null",
    )
    # To this version's schema, and with the application's login as it is named here.
    migrate.migrate(owner, application)


def _holds_tables(owner: str) -> bool:
    engine = sa.create_engine(driver_url(owner))
    try:
        with engine.connect() as connection:
            return bool(sa.inspect(connection).get_table_names())
    except sa.exc.DBAPIError as error:
        cause = str(error.orig).partition("\n")[0]
        raise InstallationError(f"the database cannot be used as its owner: {cause}") from error
    finally:
        engine.dispose()
