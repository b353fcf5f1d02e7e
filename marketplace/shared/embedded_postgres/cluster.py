"""The data on disk: one PostgreSQL cluster with its three logins, made whole or not at all.

A data folder holds `cluster` (PostgreSQL's own), `passwords.json`, two lock files, `start.log`, and
while the server runs perhaps `run`.
"""

import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from marketplace.shared.embedded_postgres.programs import (
    MAJOR_VERSION,
    EmbeddedPostgresError,
    Runtime,
    directory_argument,
    give,
    last_line,
    spawning,
)

SUPERUSER = "postgres"
OWNER = "marketplace_owner"
APPLICATION = "marketplace_app"
DATABASE = "marketplace"

CLUSTER = "cluster"
UNFINISHED = "cluster.new"
PASSWORDS = "passwords.json"
UNFINISHED_PASSWORDS = f"{PASSWORDS}.new"
OURS = {
    *(CLUSTER, UNFINISHED, PASSWORDS, UNFINISHED_PASSWORDS),
    *("program.lock", "server.lock", "start.log", "run"),
}

# Owning a database is owning its schema `public`, where nobody else may create anything. The owner
# may create databases because the tests copy a migrated one.
LOGINS_AND_DATABASE = (
    f"CREATE ROLE {OWNER} LOGIN CREATEDB",
    f"CREATE ROLE {APPLICATION} LOGIN",
    f"CREATE DATABASE {DATABASE} OWNER {OWNER}",
)


def check_folder(data_folder: Path) -> None:
    """Makes the folder where it is missing, and refuses one that holds anything else."""
    if not data_folder.exists():
        data_folder.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0:
            data_folder.chmod(0o711)  # the server's user passes through, and lists nothing
    foreign = sorted({entry.name for entry in data_folder.iterdir()} - OURS)
    cluster = data_folder / CLUSTER
    if cluster.exists():
        _check_version(cluster)
    elif foreign:
        raise EmbeddedPostgresError(
            f"{data_folder} is not empty and not ours (it holds {foreign[0]}): choose an empty folder"
        )


def _check_version(cluster: Path) -> None:
    mark = cluster / "PG_VERSION"
    if not mark.is_file():
        raise EmbeddedPostgresError(f"{cluster} is not a PostgreSQL cluster: choose another folder")
    version = mark.read_text(encoding="ascii").strip()
    if version != str(MAJOR_VERSION):
        raise EmbeddedPostgresError(
            f"{cluster} was made by PostgreSQL {version} and this program brings {MAJOR_VERSION}: "
            f"dump it with version {version} and load the dump into an empty data folder"
        )


def prepare_cluster(
    data_folder: Path, runtime: Runtime, *, durable: bool, lock: int
) -> dict[str, str]:
    """The passwords by login, of a cluster that is made here at the first start.

    `lock` is inherited by whatever works on the data, so that it shows when that goes on after our
    own end. Lost passwords are replaced: who can write the folder owns the data anyway.
    """
    passwords = _read_passwords(data_folder)
    if passwords is None:
        passwords = _write_passwords(data_folder)
        if (data_folder / CLUSTER).exists():
            _alone(data_folder / CLUSTER, runtime, lock, _password_statements(passwords))
    if not (data_folder / CLUSTER).exists():
        _create(data_folder, runtime, passwords, durable=durable, lock=lock)
    return passwords


def _read_passwords(data_folder: Path) -> dict[str, str] | None:
    try:
        text = (data_folder / PASSWORDS).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    passwords: dict[str, str] = json.loads(text)
    return passwords


def _write_passwords(data_folder: Path) -> dict[str, str]:
    passwords = {login: secrets.token_urlsafe(32) for login in (SUPERUSER, OWNER, APPLICATION)}
    unfinished = data_folder / UNFINISHED_PASSWORDS
    unfinished.unlink(missing_ok=True)
    file = open_private(unfinished, os.O_WRONLY | os.O_EXCL)
    with os.fdopen(file, "w", encoding="ascii") as out:
        json.dump(passwords, out)
        out.flush()
        os.fsync(out.fileno())
    unfinished.rename(data_folder / PASSWORDS)
    return passwords


def open_private(path: Path, flags: int) -> int:
    """A file that only the data folder's owner reads, also when root makes it in their folder."""
    file = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file


def _create(
    data_folder: Path, runtime: Runtime, passwords: dict[str, str], *, durable: bool, lock: int
) -> None:
    """Under another name until it is whole: a kill on the way leaves nothing to mistake for it."""
    unfinished = data_folder / UNFINISHED
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    give(unfinished, runtime.account)
    _initialise(unfinished, runtime, passwords[SUPERUSER], durable=durable, lock=lock)
    _alone(unfinished, runtime, lock, (*LOGINS_AND_DATABASE, *_password_statements(passwords)))
    unfinished.rename(data_folder / CLUSTER)
    _sync_folder(data_folder)


def _initialise(
    cluster: Path, runtime: Runtime, password: str, *, durable: bool, lock: int
) -> None:
    password_file = runtime.folder / "superuser"
    file = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as out:
        out.write(password)
    give(password_file, runtime.account)
    try:
        _run(
            cluster,
            runtime,
            lock,
            "initdb",
            *(f"--username={SUPERUSER}", f"--pwfile={password_file}", "--auth=scram-sha-256"),
            # PostgreSQL's own rules: no operating system update can reorder an index.
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-locale"),
            *("--encoding=UTF8", "--data-checksums", "--no-instructions"),
            *(() if durable else ("--no-sync",)),
            f"--pgdata={directory_argument(cluster, runtime.account)}",
        )
    finally:
        password_file.unlink()


def _password_statements(passwords: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"ALTER ROLE {login} PASSWORD '{word}'" for login, word in passwords.items())


def _alone(cluster: Path, runtime: Runtime, lock: int, statements: tuple[str, ...]) -> None:
    """Runs SQL in PostgreSQL's single-user mode: no socket, nobody else, no password yet."""
    _run(
        cluster,
        runtime,
        lock,
        "postgres",
        *("--single", "-j", "-D", directory_argument(cluster, runtime.account)),
        # Neither a failure nor the log may show a statement: they hold the passwords.
        *("-c", "exit_on_error=on", "-c", "log_min_error_statement=panic"),
        "postgres",
        text="".join(f"{statement};\n\n" for statement in statements),
    )


def _run(
    cluster: Path, runtime: Runtime, lock: int, program: str, *arguments: str, text: str = ""
) -> None:
    options = spawning(runtime.account) | {"cwd": cluster, "pass_fds": (lock,)}
    del options["stdin"]
    done = subprocess.run(  # noqa: S603
        [runtime.programs / program, *arguments], check=False, text=True, input=text, **options
    )
    if done.returncode != 0:
        raise EmbeddedPostgresError(
            f"PostgreSQL could not prepare {cluster} ({last_line(done.stderr)}): "
            "free disk space or choose another data folder, then start again"
        )


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
