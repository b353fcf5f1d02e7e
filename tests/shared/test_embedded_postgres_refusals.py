"""What the embedded server refuses, always in one line that says what to do."""

import os
import shutil
from pathlib import Path

import pytest

from marketplace.shared.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def refusal(folder: Path) -> str:
    with pytest.raises(EmbeddedPostgresError) as caught:
        EmbeddedPostgres(folder).start()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("version", ["16", "19"])
def test_folder_of_another_version_is_refused(folder: Path, version: str) -> None:
    (folder / "cluster").mkdir(parents=True)
    (folder / "cluster" / "PG_VERSION").write_text(f"{version}\n")
    assert f"PostgreSQL {version}" in refusal(folder)


def test_folder_of_other_things_is_refused_and_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert "thesis.txt" in refusal(folder)
    assert [entry.name for entry in folder.iterdir()] == ["thesis.txt"]


def test_cluster_folder_without_a_cluster_is_refused(folder: Path) -> None:
    (folder / "cluster").mkdir(parents=True)
    assert "not a PostgreSQL cluster" in refusal(folder)


def test_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "choose another data folder" in refusal(tmp_path / "file" / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "this user may write" in refusal(tmp_path / "data")
    tmp_path.chmod(0o700)


def test_server_that_does_not_start_is_quoted_with_its_log(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False):
        pass
    with (folder / "cluster" / "postgresql.auto.conf").open("a") as settings:
        settings.write("nonsense = 1\n")
    message = refusal(folder)
    assert "nonsense" in message or "postgresql.auto.conf" in message
    assert str(folder / "start.log") in message


def test_damaged_cluster_is_quoted_with_its_log(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False):
        pass
    shutil.rmtree(folder / "cluster" / "pg_wal")
    message = refusal(folder)
    assert "pg_wal" in message
    assert str(folder / "cluster" / "log") in message
