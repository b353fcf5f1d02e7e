"""A backup brings everything back, and says so itself; a damaged one is not loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from marketplace import backups
from tests.processes import PROJECT, environment
from tests.reports.conftest import Paid, play
from tests.world import DAY, World


@pytest.fixture
def paid(world: World) -> Paid:
    return play(world)


def ran(world: World | None, *arguments: str, **variables: str) -> tuple[int, str]:
    """With the story's database and its owner's login, or with nothing named at all."""
    named = {"PATH": environment(world)["PATH"]} if world else {}
    env = (
        {**environment(world), "MIGRATION_DATABASE_URL": world.owner_url}
        if world
        else {**named, "PYTHONPATH": str(PROJECT)}
    )
    done = subprocess.run(
        [sys.executable, "-m", "marketplace", *arguments],
        env=env | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_backup_brings_everything_back(world: World, paid: Paid, tmp_path: Path) -> None:
    world.advance(DAY)
    kept, data = tmp_path / "backup", tmp_path / "new"
    code, told = ran(world, "backup", str(kept), "--data", str(tmp_path / "old"))
    assert (code, "up to seal 1:" in told) == (0, True), told
    code, told = ran(world, "backup", str(kept), "--data", str(tmp_path / "old"))
    assert (code, "is there already" in told) == (2, True)
    # The story's sandbox is a process of the tests; its state is kept as the product keeps its own.
    (kept / "stripe-sandbox.sqlite").write_bytes(world.sandbox())
    code, told = ran(None, "restore", str(kept), "--data", str(data))
    assert (code, "stripe-sandbox.sqlite differs" in told) == (2, True), told
    (kept / "SHA256SUMS").write_text("".join(backups.sums_of(kept)))
    code, told = ran(None, "restore", str(kept), "--data", str(data))
    assert "FAIL" not in told
    assert (code, "the seal is whole" in told) == (0, True), told
    code, told = ran(None, "explain", paid.payout["transfer_id"], "--data", str(data))
    assert (code, paid.claim["id"] in told) == (0, True)
    code, told = ran(None, "restore", str(kept), "--data", str(data))
    assert (code, "holds a database already" in told) == (2, True)


def test_a_damaged_backup_is_not_loaded(world: World, paid: Paid, tmp_path: Path) -> None:
    kept, data = tmp_path / "backup", tmp_path / "new"
    ran(world, "backup", str(kept), "--data", str(tmp_path / "old"))
    dump = kept / "database.sql"
    dump.write_text(dump.read_text().replace("paid", "sent", 1))
    code, told = ran(None, "restore", str(kept), "--data", str(data))
    assert (code, told) == (
        2,
        f"marketplace: {kept} is not as it was made: database.sql differs; use another backup\n",
    )
    assert not data.exists()
    assert ran(None, "restore", str(tmp_path / "nothing"), "--data", str(data))[0] == 2


def test_a_backup_overwrites_nothing(world: World, tmp_path: Path) -> None:
    """Every place is looked at before anything is written."""
    world.client("Acme Voice Lab", deposit_minor=1_000)
    world.capital(world.finance("Finn"), 5_000)
    kept, data = tmp_path / "backup", tmp_path / "new"
    (Path(world.settings.storage_url) / "take").write_text("a take")
    assert ran(world, "backup", str(kept), "--data", str(tmp_path / "old"))[0] == 0
    assert not (kept / "files" / "seals").exists(), "its chain's head is its own"
    (kept / "stripe-sandbox.sqlite").write_bytes(world.sandbox())
    (kept / "SHA256SUMS").write_text("".join(backups.sums_of(kept)))
    elsewhere = tmp_path / "elsewhere"
    data.mkdir()
    for name in ("stripe-sandbox.sqlite", "stripe-sandbox.sqlite-wal", "files"):
        (data / name).write_text("another's")
        code, told = ran(None, "restore", str(kept), "--data", str(data))
        assert (code, told) == (
            2,
            f"marketplace: {data / name} is there already: restore where nothing is\n",
        )
        assert (data / name).read_text() == "another's"
        assert not (data / "postgres").exists()
        (data / name).unlink()
    restore = ("restore", str(kept), "--data", str(data))
    code, told = ran(None, *restore, STORAGE_URL="s3://takes")
    assert (code, "STORAGE_URL names none" in told, told.count("\n")) == (2, True, 1)
    code, told = ran(None, *restore, STORAGE_URL="/proc/none")
    assert (code, "cannot be restored" in told, told.count("\n")) == (2, True, 1)
    assert list(data.iterdir()) == []
    code, told = ran(None, *restore, STORAGE_URL=elsewhere.as_uri())
    assert "FAIL" not in told
    assert code == 0, told
    assert (elsewhere / "take").read_text() == "a take"
    assert not (data / "files").exists()
