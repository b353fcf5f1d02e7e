"""The server's life: it begins and ends with the program that started it.

Socket only, no TCP port: none can clash, and a private folder keeps other users of the machine
from even asking for a password.

Two locks tell what a data folder is doing. Our program holds `program.lock` while it lives. The
server and all its processes inherit `server.lock`, so it is free exactly when none of them is
left, which no process id can tell.
"""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from marketplace.shared.embedded_postgres.cluster import (
    APPLICATION,
    CLUSTER,
    DATABASE,
    OWNER,
    SUPERUSER,
    check_folder,
    open_private,
    prepare_cluster,
)
from marketplace.shared.embedded_postgres.programs import (
    OWN_DIRECTORY,
    PORT,
    Account,
    EmbeddedPostgresError,
    Runtime,
    directory_argument,
    last_line,
    make_runtime,
    server_account,
    spawning,
)

START_SECONDS = 120  # after a crash the server first replays its log
STOP_SECONDS = 30
ABORT_SECONDS = 10
POLL_SECONDS = 0.01

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # One file per weekday, overwritten a week later.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgres-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    # A refused row is daily business here, and its values are people's own: log the bare message.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One PostgreSQL server on one data folder, from `start` to `stop` or the program's end.

    However the program ends, the server stops with it. A server that outlived its program all the
    same is stopped by the next start, and committed data is kept. With `durable=False`, for tests,
    any stop but a plain one loses the last commits, and a crash of the machine ruins the data.

    The URLs are good after `start`, and stay the same for a data folder. Every failure is an
    `EmbeddedPostgresError`.
    """

    def __init__(self, data_folder: Path, *, durable: bool = True) -> None:
        self.data_folder = data_folder.resolve()
        self.durable = durable
        self.application_url = self.owner_url = self.superuser_url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        try:
            self._start()
        except OSError as error:
            self.stop()
            raise EmbeddedPostgresError(_advice(error, self.data_folder)) from error
        except BaseException:
            self.stop()
            raise

    def stop(self, *, immediate: bool = False) -> None:
        """Disconnects everyone and leaves no process; `immediate` is as rude as a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            self._process = None
        self._held.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        cluster = self.data_folder / CLUSTER
        check_folder(self.data_folder)
        self._held.callback(os.close, _claim(self.data_folder))
        server_lock = _inherit(self.data_folder)
        try:
            account = server_account(cluster, self.data_folder)
            runtime = make_runtime(self.data_folder, account)
            self._held.callback(shutil.rmtree, runtime.folder, ignore_errors=True)
            self._held.callback(os.close, _spare_from_cleaning(runtime.folder))
            passwords = prepare_cluster(
                self.data_folder, runtime, durable=self.durable, lock=server_lock
            )
            _forget_stranger(cluster)
            process = _spawn(self.data_folder, runtime, durable=self.durable, lock=server_lock)
        finally:
            os.close(server_lock)
        self._process = process
        self._held.callback(_end, process, self.data_folder)
        self._held.callback(_dismiss, _watch(process, account))
        _await_ready(process, self.data_folder)
        self.application_url = _url(APPLICATION, passwords, runtime)
        self.owner_url = _url(OWNER, passwords, runtime)
        self.superuser_url = _url(SUPERUSER, passwords, runtime)


def _claim(data_folder: Path) -> int:
    file = open_private(data_folder / "program.lock", os.O_RDWR)
    if not _locked(file):
        holder = os.pread(file, 20, 0).decode() or "unknown"
        os.close(file)
        raise EmbeddedPostgresError(
            f"{data_folder} is in use by another program (process {holder}): "
            "stop it, or choose another data folder"
        )
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
    return file


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _inherit(data_folder: Path) -> int:
    """The server's lock, after stopping a server whose program is gone."""
    file = open_private(data_folder / "server.lock", os.O_RDWR)
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, ABORT_SECONDS)):
        if _locked(file):
            return file
        process_id = _recorded_process(data_folder / CLUSTER)
        if process_id is not None and _works_in(process_id, data_folder / CLUSTER) is not False:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process_id, number)
        if _locked_within(file, seconds):
            return file
    os.close(file)
    raise EmbeddedPostgresError(
        f"A PostgreSQL server of an ended program still runs in {data_folder}: "
        f"stop its process {_recorded_process(data_folder / CLUSTER) or ''} and start again"
    )


def _locked_within(file: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not _locked(file):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _recorded_process(cluster: Path) -> int | None:
    try:
        return int((cluster / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _works_in(process_id: int, folder: Path) -> bool | None:
    """Whether that is the process's working directory; None where the system does not tell."""
    if not Path(OWN_DIRECTORY).exists():
        return None
    try:
        return Path(f"/proc/{process_id}/cwd").samefile(folder)
    except FileNotFoundError:
        return False  # it ended, though its parent may not have noticed
    except OSError:
        return None


def _forget_stranger(cluster: Path) -> None:
    """After a kill the recorded id may be any process's, and PostgreSQL would wait for its end.

    That happens mostly in containers, where every start hands out the same few ids.
    """
    process_id = _recorded_process(cluster)
    if process_id is not None and _works_in(process_id, cluster) is False:
        (cluster / "postmaster.pid").unlink()


def _spare_from_cleaning(folder: Path) -> int:
    """A locked folder is passed over by systemd's cleaning of temporary files: tmpfiles.d(5)."""
    file = os.open(folder, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _spawn(
    data_folder: Path, runtime: Runtime, *, durable: bool, lock: int
) -> subprocess.Popen[bytes]:
    cluster = data_folder / CLUSTER
    settings = SETTINGS | {"unix_socket_directories": str(runtime.sockets)}
    if not durable:
        settings |= NOT_DURABLE
    command = [str(runtime.programs / "postgres")]
    command += ["-D", directory_argument(cluster, runtime.account)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    log = open_private(data_folder / "start.log", os.O_WRONLY | os.O_TRUNC)
    options = {"cwd": cluster, "stdout": log, "stderr": log, "pass_fds": (lock,)}
    try:
        return subprocess.Popen(command, **(spawning(runtime.account) | options))  # noqa: S603
    finally:
        os.close(log)


def _watch(server: subprocess.Popen[bytes], account: Account) -> subprocess.Popen[bytes]:
    """Stops the server when our program is gone, for whatever reason: then this pipe closes.

    Linux could signal the server by itself, but does so when the *thread* that started it ends.
    """
    script = ["/bin/sh", "-c", 'read -r _; kill -INT "$0"', str(server.pid)]
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(script, **(spawning(account) | quiet))  # noqa: S603


def _await_ready(process: subprocess.Popen[bytes], data_folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(process, data_folder / CLUSTER):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            fate = "did not start" if ended else f"was not ready after {START_SECONDS} s"
            words, log = _last_words(data_folder)
            raise EmbeddedPostgresError(f"PostgreSQL {fate}: {words}; read its log {log}")
        time.sleep(POLL_SECONDS)


def _is_ready(process: subprocess.Popen[bytes], cluster: Path) -> bool:
    """As `pg_ctl` decides it: the eighth line of this file, which a server writes for it."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready"


def _last_words(data_folder: Path) -> tuple[str, Path]:
    """Until its log is open the server writes to `start.log`."""
    early = data_folder / "start.log"
    line = last_line(early.read_text(encoding="utf-8", errors="replace"))
    logs = sorted(
        (data_folder / CLUSTER / "log").glob("*.log"), key=lambda log: log.stat().st_mtime
    )
    if "FATAL" in line or not logs:
        return line, early
    return last_line(logs[-1].read_text(encoding="utf-8", errors="replace")), logs[-1]


def _end(process: subprocess.Popen[bytes], data_folder: Path) -> None:
    for number, seconds in (
        (signal.SIGINT, STOP_SECONDS),
        (signal.SIGQUIT, ABORT_SECONDS),
        (signal.SIGKILL, ABORT_SECONDS),
    ):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    # The server's own helpers, its log writer last, end a moment after it.
    file = open_private(data_folder / "server.lock", os.O_RDWR)
    _locked_within(file, ABORT_SECONDS)
    os.close(file)


def _dismiss(watcher: subprocess.Popen[bytes]) -> None:
    watcher.kill()
    watcher.communicate()


def _url(login: str, passwords: dict[str, str], runtime: Runtime) -> str:
    host = quote(str(runtime.sockets), safe="/")
    return f"postgresql://{login}:{passwords[login]}@/{DATABASE}?host={host}&port={PORT}"


def _advice(error: OSError, data_folder: Path) -> str:
    what = {
        errno.ENOSPC: "free disk space",
        errno.EDQUOT: "free disk space",
        errno.EACCES: "choose a data folder that this user may write",
        errno.EPERM: "choose a data folder that this user may write",
        errno.EROFS: "choose a data folder that this user may write",
    }.get(error.errno or 0, "choose another data folder")
    return f"Cannot use {error.filename or data_folder} ({error.strerror}): {what}"
