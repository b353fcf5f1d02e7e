"""One PostgreSQL server with one migrated template per run; a database of its own for each story.

With xdist the controller starts the server and tells its workers where it is; without, the first
story that needs it does. `DATABASE_URL` and `MIGRATION_DATABASE_URL` name another server instead.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from marketplace import installation, migrate
from marketplace.shared.embedded_postgres import EmbeddedPostgres
from tests.loopback import Loopback
from tests.world import Client, Person, World

SERVER = pytest.StashKey[dict[str, str]]()
STORIES = itertools.count(1)
HELD = pytest.StashKey[ExitStack]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["server"] = _server(node.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    held = config.stash.get(HELD, None)
    if held is not None:
        held.close()


def _server(config: pytest.Config) -> dict[str, str]:
    """The template's URLs, for its owner and for the application."""
    given = getattr(config, "workerinput", {}).get("server")
    if given is not None:
        config.stash[SERVER] = given
    if SERVER not in config.stash:
        config.stash[HELD] = held = ExitStack()
        config.stash[SERVER] = _start(held)
    return config.stash[SERVER]


def _start(held: ExitStack) -> dict[str, str]:
    if os.environ.get("DATABASE_URL"):
        urls = {"owner": os.environ["MIGRATION_DATABASE_URL"], "app": os.environ["DATABASE_URL"]}
    else:
        memory = Path("/dev/shm")  # noqa: S108 - in memory a database is copied four times as fast
        folder = Path(
            tempfile.mkdtemp(prefix="marketplace-tests-", dir=memory if memory.is_dir() else None)
        )
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        server = held.enter_context(EmbeddedPostgres(folder / "postgres", durable=False))
        urls = {"owner": server.owner_url, "app": server.application_url}
    template = f"marketplace_template_{os.getpid()}"
    with psycopg.connect(urls["owner"], autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {template}".encode())
    held.callback(_drop, urls["owner"], template)
    urls = {login: on_database(url, template) for login, url in urls.items()} | {
        "maintenance": urls["owner"]
    }
    migrate.migrate(urls["owner"], urls["app"])
    installation.make_clock_virtual(urls["owner"])
    return urls


def _drop(owner_url: str, database: str) -> None:
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(f"DROP DATABASE {database}".encode())


def on_database(url: str, database: str) -> str:
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> dict[str, str]:
    return _server(pytestconfig)


@pytest.fixture(scope="session")
def maintenance(server: dict[str, str]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server["maintenance"], autocommit=True) as owner:
        yield owner


@pytest.fixture(scope="session")
def loopback() -> Iterator[Loopback]:
    with Loopback() as started:
        yield started


@pytest.fixture
def database(server: dict[str, str], maintenance: psycopg.Connection) -> Iterator[dict[str, str]]:
    """A copy of the template: copying files takes 25 ms, and append-only tables stay append-only."""
    template = sa.make_url(server["owner"]).database
    name = f"marketplace_story_{os.getpid()}_{next(STORIES)}"
    maintenance.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY".encode())
    yield {login: on_database(server[login], name) for login in ("owner", "app")}
    maintenance.execute(f"DROP DATABASE {name}".encode())


@pytest.fixture
def world(database: dict[str, str], loopback: Loopback, tmp_path: Path) -> Iterator[World]:
    with World(
        owner_url=database["owner"],
        app_url=database["app"],
        loopback=loopback,
        files=tmp_path / "files",
    ) as made:
        yield made


@pytest.fixture
def operator(world: World) -> Person:
    return world.operator()


@pytest.fixture
def ana(world: World) -> Person:
    """A vetted performer who speaks en-US and improvises; her payout account is not open yet."""
    return world.performer("Ana")


@pytest.fixture
def ravi(world: World) -> Person:
    return world.reviewer("Ravi")


@pytest.fixture
def second_reviewer(world: World) -> Person:
    return world.reviewer("Rosa")


@pytest.fixture
def finn(world: World) -> Person:
    return world.finance("Finn")


@pytest.fixture
def fay(world: World) -> Person:
    return world.finance("Fay")


@pytest.fixture
def acme(world: World) -> Client:
    """Acme Voice Lab, with 1,000.00 USD in its wallet."""
    return world.client("Acme Voice Lab", deposit_minor=100_000)
