"""The command line: whatever is wrong with an argument or a variable is said in one line."""

import itertools
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from marketplace import cli, installation, migrate
from marketplace.shared import clock
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import BalanceAmount
from tests.processes import PROJECT, environment
from tests.world import World

NOT_UTF_8 = "\udcff"  # what Python makes of the byte 0xff
NOBODY = str(uuid.UUID(int=7))
A_HEAD = f"7:{'a' * 64}"
NAMED = {
    "DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/nothing",
    "STRIPE_API_KEY": "sk_test_unused",
    "STRIPE_API_BASE": "http://127.0.0.1:1",
    "STRIPE_WEBHOOK_SECRET": "whsec_unused",
    "STRIPE_CONNECT_WEBHOOK_SECRET": "whsec_unused",
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the tests' own environment, and no data."""
    for name in (*NAMED, "MIGRATION_DATABASE_URL", "PUBLIC_URL", "STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    # `serve` would take SIGTERM from the test's own process.
    monkeypatch.setattr("signal.signal", lambda *_: None)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line, after exit code 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    out, line = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert line.startswith("marketplace: ")
    assert line.count("\n") == 1
    assert "secret" not in line
    return line


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["verify", "--nothing"], "unrecognized arguments: --nothing"),
        (["verify", "--nothing\nmore"], "unrecognized arguments"),
        (["serve", "--port", "99999"], "--port: must be a whole number from 0 to 65535"),
        (["serve", "--port", "-1"], "--port: must be a whole number"),
        (["serve", "--port", "²"], "--port: must be a whole number"),
        (["serve", "--host", NOT_UTF_8], "not UTF-8"),
        (["serve", "--host", "a..b", "--port", "0"], "cannot listen on a..b"),
        (["demo", "--performers", "0"], "--performers: must be a whole number from 1"),
        (["explain", NOT_UTF_8], "not UTF-8"),
        (["reset-password", NOT_UTF_8], "not UTF-8"),
        (["simulate", NOBODY, "--token", NOT_UTF_8], "not UTF-8"),
        (["simulate", "7"], "invalid UUID value: '7'"),
        (["simulate", NOBODY], "nothing is served"),
        (["verify", "--data", "/proc/none"], "no data in /proc/none"),
        (["verify", "--seal", ""], "--seal: write it as `seal` printed it"),
        (["verify", "--seal", f"{'9' * 5_000}:{'a' * 64}"], "--seal: write it as"),
        (["verify", "--seal", f"²:{'a' * 64}"], "--seal: write it as"),
        (["verify", "--dump", "/dev/null"], "give --seal, too"),
        (["verify", "--seal", A_HEAD, "--dump", "/dev/null"], "no dump that pg_dump"),
        (["verify", "--seal", A_HEAD, "--dump", "/"], "/ cannot be checked"),
        (["verify", "--seal", A_HEAD, "--dump", str(PROJECT / "README.md")], "no dump that"),
        (["serve", "--data", "/proc/none", "--port", "0"], "/proc/none cannot be used"),
        (["openapi", "--check", "/"], "/ cannot be read: Is a directory"),
        (["openapi", "--check", "/nowhere"], "/nowhere cannot be read: No such file"),
        (["openapi", "--check", sys.executable], "differs from the code"),
        (["clock", "--advance", "soon"], "write it like 2d6h"),
        (["clock", "--advance", "²d"], "write it like 2d6h"),
        (["clock", "--advance", "0d"], "to ten years"),
        (["clock", "--advance", "3651d"], "to ten years"),
        (["clock", "--advance", "9999999d"], "to ten years"),
        (["clock", "--advance", "99999999999999999999d"], "to ten years"),
        (["clock", "--advance", f"{'9' * 9_000}d"], "write it like 2d6h"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_bad_argument_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    assert why in complaint(capsys, *arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "garbage"),
        ("DATABASE_URL", "postgresql://x:notaport/secret"),
        ("DATABASE_URL", "mysql://x:secret@127.0.0.1/y"),
        ("DATABASE_URL", f"postgresql://x:secret@127.0.0.1/{NOT_UTF_8}"),
        ("MIGRATION_DATABASE_URL", "garbage"),
    ],
)
def test_a_database_that_is_no_address_is_named_without_its_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for each in (*NAMED.items(), (name, value)):
        monkeypatch.setenv(*each)
    for command in ("migrate", "verify", "serve"):
        port = ("--port", "0") if command == "serve" else ()
        if (command, name) != ("migrate", "DATABASE_URL"):
            assert f"{name} is not an address" in complaint(capsys, command, *port)


def test_a_database_that_does_not_answer_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{NAMED['DATABASE_URL']}?nonsense=1")
    assert "nonsense" in complaint(capsys, "verify")
    monkeypatch.setenv("DATABASE_URL", NAMED["DATABASE_URL"])
    assert "Connection refused" in complaint(capsys, "verify")
    monkeypatch.setenv("MIGRATION_DATABASE_URL", NAMED["DATABASE_URL"])
    assert "as its owner" in complaint(capsys, "migrate")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("PUBLIC_URL", "notaurl", "PUBLIC_URL (Value error, must be an address"),
        ("PUBLIC_URL", "http://[", "PUBLIC_URL (Value error"),
        ("STORAGE_URL", "ftp://x", "STORAGE_URL cannot be used: Generic URL error"),
        ("STORAGE_URL", "/proc/none", "STORAGE_URL cannot be used: No such file"),
        ("CORS_ORIGINS", "https://x.example", "CORS_ORIGINS (Value error"),
        ("DATABASE_POOL_SIZE", "many", "DATABASE_POOL_SIZE"),
        ("STRIPE_API_BASE", "notaurl", "STRIPE_API_BASE"),
        ("STRIPE_API_BASE", "http://127.0.0.1:1", "the Stripe sandbox does not answer"),
    ],
)
def test_a_bad_variable_is_one_line(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    why: str,
) -> None:
    for each in (*world.environment.items(), (name, value)):
        monkeypatch.setenv(*each)
    assert why in complaint(capsys, "serve", "--port", "0", "--no-sweeps")


@pytest.mark.parametrize(
    "arguments", [("verify",), ("sweep", "verify"), ("sweep", "poll_events")], ids=" ".join
)
def test_a_stripe_that_does_not_answer_is_one_line(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    for each in (world.environment | {"STRIPE_API_BASE": "http://127.0.0.1:1"}).items():
        monkeypatch.setenv(*each)
    assert "Stripe does not answer as it should" in complaint(capsys, *arguments)


def test_a_database_that_refuses_is_one_line(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in world.environment.items():
        monkeypatch.setenv(*each)
    login = sa.make_url(world.app_url).username
    world.owner_sql(f"REVOKE SELECT ON payout_attempt FROM {login}")
    for arguments in (("verify",), ("explain", NOBODY)):
        assert "permission denied for table payout_attempt" in complaint(capsys, *arguments)


def test_a_database_too_busy_to_be_looked_at_is_one_line(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in world.environment.items():
        monkeypatch.setenv(*each)
    monkeypatch.setattr(clock, "SETTLE_LOOKS", 1)
    with world.connection() as busy:
        busy.execute("SELECT booking_time()")
        assert "try again" in complaint(capsys, "verify")


def test_what_could_not_be_checked_has_an_exit_code_of_its_own(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in world.environment.items():
        monkeypatch.setenv(*each)
    moving = itertools.count(1)

    async def moved(_gateway: StripeGateway) -> dict[str, BalanceAmount]:
        return {"USD": BalanceAmount(available_minor=next(moving))}

    monkeypatch.setattr(StripeGateway, "balance", moved)
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify"])
    assert ended.value.code == 3
    unchecked = [line for line in capsys.readouterr().out.splitlines() if line.startswith("?")]
    assert [line.split()[1] for line in unchecked] == ["I4", "coverage"]


def test_a_fault_of_our_own_is_not_hidden(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in world.environment.items():
        monkeypatch.setenv(*each)

    async def broken(_gateway: StripeGateway) -> dict[str, BalanceAmount]:
        raise ZeroDivisionError

    monkeypatch.setattr(StripeGateway, "balance", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify"])


def test_origins_are_a_json_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", '["https://phone.example"]')
    settings = installation.settings_from(world.environment)
    assert settings.cors_origins == ("https://phone.example",)


def test_bytes_that_are_no_text_are_one_line_of_the_program_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "marketplace", "explain", b"\xff", "--data", str(tmp_path)],
        env={"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_a_token_that_cannot_be_sent_is_named(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (*world.environment.items(), ("PUBLIC_URL", world.url)):
        monkeypatch.setenv(*each)
    assert "the token" in complaint(capsys, "simulate", NOBODY, "--token", "mkt_é")
    monkeypatch.setenv("MARKETPLACE_TOKEN", "mkt_\n")
    assert "the token" in complaint(capsys, "simulate", NOBODY)


def test_a_simulation_names_who_does_not_answer(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (*world.environment.items(), ("PUBLIC_URL", "http://127.0.0.1:1")):
        monkeypatch.setenv(*each)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", NOBODY])
    line = capsys.readouterr().err
    assert ended.value.code == 1
    assert "POST http://127.0.0.1:1/v1/join got no answer: ConnectError" in line


def test_a_simulation_finds_what_runs_on_the_named_database(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", world.app_url)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    running = {**world.environment, "PUBLIC_URL": "http://127.0.0.1:1"}
    with (
        installation.announced(installation.DEFAULT_DATA, running),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main(["simulate", NOBODY])
    assert ended.value.code == 1
    assert "POST http://127.0.0.1:1/v1/join got no answer" in capsys.readouterr().err


def test_what_a_killed_server_announced_is_not_believed(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database may still be there; its sandbox is not."""
    for each in world.environment.items():
        monkeypatch.setenv(*each)
    dead = {**world.environment, "STRIPE_API_BASE": "http://127.0.0.1:1"}
    with (
        installation.announced(installation.DEFAULT_DATA, dead),
        installation.parts_for_command(installation.DEFAULT_DATA) as parts,
    ):
        assert parts["STRIPE_API_BASE"] == world.environment["STRIPE_API_BASE"]


def test_one_sandbox_has_its_state_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    state = tmp_path / "stripe.sqlite"
    with (
        installation.sandbox(state),
        pytest.raises(installation.InstallationError, match="another sandbox uses"),
        installation.sandbox(state),
    ):
        pass


def test_only_the_owner_moves_the_clock(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = ("clock", "--advance", "1d")
    for each in world.environment.items():
        monkeypatch.setenv(*each)
    assert "set MIGRATION_DATABASE_URL" in complaint(capsys, *advance)
    monkeypatch.setenv("MIGRATION_DATABASE_URL", world.app_url)
    assert "cannot be moved: permission denied" in complaint(capsys, *advance)
    monkeypatch.setenv("MIGRATION_DATABASE_URL", world.owner_url)
    with pytest.raises(SystemExit) as ended:
        cli.main([*advance])
    assert (ended.value.code, capsys.readouterr().out) == (0, "86400 seconds ahead\n")


def test_a_sandbox_that_does_not_stop_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(installation, "SANDBOX_STOP_SECONDS", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    with installation.sandbox(tmp_path / "state.sqlite"):
        os.kill(started[0].pid, signal.SIGSTOP)
    assert started[0].returncode == -signal.SIGKILL


def test_a_server_too_old_is_named_before_anything_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", world.app_url)
    monkeypatch.setenv("MIGRATION_DATABASE_URL", world.owner_url)
    monkeypatch.setattr(migrate, "OLDEST_POSTGRESQL", 99)
    line = complaint(capsys, "migrate")
    assert "the database runs PostgreSQL " in line
    assert "upgrade it to 99 or newer" in line


def test_migrate_needs_no_stripe(world: World, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "marketplace", "migrate", "--data", str(tmp_path / "data")],
        env={
            "PYTHONPATH": str(PROJECT),
            "DATABASE_URL": environment(world)["DATABASE_URL"],
            "MIGRATION_DATABASE_URL": world.owner_url,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "data").exists(), "the sandbox would have left its state"
