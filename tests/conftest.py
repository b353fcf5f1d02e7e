"""One PostgreSQL server with one migrated template per run; a database of its own for each story.

With xdist the controller starts the server and tells its workers where it is; without, the first
story that needs it does. `DATABASE_URL` and `MIGRATION_DATABASE_URL` name another server instead.
"""

import copy
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import settings

from marketplace import installation, migrate
from marketplace.shared.embedded_postgres import EmbeddedPostgres
from tests.loopback import Loopback
from tests.world import Client, Person, World

SERVER = pytest.StashKey[dict[str, str]]()
STORIES = itertools.count(1)
# A container's memory disk often holds 64 MiB only; a run needs some 600.
MEMORY_BYTES = 2 << 30
HELD = pytest.StashKey[ExitStack]()

# See tests/test_money_model.py.
pytest.register_assert_rewrite("tests.money_model")
settings.register_profile("campaign", print_blob=True)
settings.register_profile("shrink", print_blob=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["server"] = _server(node.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left alone with one of them at the end.

    Those are the stories, and then what tells of the whole product and so stands in no folder.
    """
    here = Path(__file__).parent
    items.sort(
        key=lambda item: (item.get_closest_marker("story") is None, item.path.parent != here)
    )


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage need look through it again."""
    gc.collect()
    gc.freeze()


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
        roomy = memory.is_dir() and shutil.disk_usage(memory).free >= MEMORY_BYTES
        folder = Path(tempfile.mkdtemp(prefix="marketplace-tests-", dir=memory if roomy else None))
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


@dataclass(frozen=True)
class Scene:
    """A world at rest, in which any number of stories can begin."""

    world: World
    database: str
    sandbox: bytes
    cast: Any

    def cast_in(self, world: World) -> Any:
        """Who and what the scene has made, speaking to a story's own world."""
        return copy.deepcopy(self.cast, {id(self.world): world})


@contextmanager
def copied(
    server: dict[str, str], maintenance: psycopg.Connection, template: str
) -> Iterator[dict[str, str]]:
    """A copy of a database: copying files takes 25 ms, and append-only tables stay append-only."""
    name = f"marketplace_story_{os.getpid()}_{next(STORIES)}"
    maintenance.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY".encode())
    yield {login: on_database(server[login], name) for login in ("owner", "app")}
    maintenance.execute(f"DROP DATABASE {name}".encode())


@pytest.fixture(scope="session")
def make_scene(
    server: dict[str, str],
    maintenance: psycopg.Connection,
    loopback: Loopback,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Callable[[World], Any]], Scene]]:
    """Plays a story's beginning once; the stories that share it begin with copies of its end.

    What the beginning answers is its cast. Stored files are not kept.
    """
    with ExitStack() as kept:

        def make(play: Callable[[World], Any]) -> Scene:
            template = sa.make_url(server["owner"]).database or ""
            urls = kept.enter_context(copied(server, maintenance, template))
            files = tmp_path_factory.mktemp("files")
            with World(
                owner_url=urls["owner"], app_url=urls["app"], loopback=loopback, files=files
            ) as world:
                cast = play(world)
                sandbox = world.sandbox()
            database = sa.make_url(urls["owner"]).database or ""
            return Scene(world, database, sandbox, cast)

        yield make


@pytest.fixture(scope="session")
def paid_in(make_scene: Callable[[Callable[[World], Any]], Scene]) -> Scene:
    """Acme Voice Lab has paid 1,000.00 in."""
    return make_scene(lambda world: world.client("Acme Voice Lab", deposit_minor=100_000))


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Scene | None:
    """Where the story begins: in an empty world, or with all that it asks for there already."""
    if "paid_in" not in request.fixturenames:
        return None
    found: Scene = request.getfixturevalue("paid_in")
    return found


@pytest.fixture
def database(
    server: dict[str, str], maintenance: psycopg.Connection, scene: Scene | None
) -> Iterator[dict[str, str]]:
    template = scene.database if scene else sa.make_url(server["owner"]).database or ""
    with copied(server, maintenance, template) as urls:
        yield urls


@pytest.fixture
def world(
    database: dict[str, str], loopback: Loopback, scene: Scene | None, tmp_path: Path
) -> Iterator[World]:
    with World(
        owner_url=database["owner"],
        app_url=database["app"],
        loopback=loopback,
        files=tmp_path / "files",
        sandbox=scene.sandbox if scene else None,
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
def acme(world: World, paid_in: Scene) -> Client:
    """Acme Voice Lab, with 1,000.00 USD in its wallet."""
    found: Client = paid_in.cast_in(world)
    return found
