from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Scene
from tests.faults.campaign import Ground
from tests.faults.zone import Launcher
from tests.loopback import Loopback
from tests.world import World


@pytest.fixture(scope="session")
def ground(
    server: dict[str, str],
    maintenance: psycopg.Connection,
    loopback: Loopback,
    make_scene: Callable[[Callable[[World], Any]], Scene],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ground]:
    with Launcher() as launcher:
        folder = tmp_path_factory.mktemp("faults")
        made = Ground(server, maintenance, loopback, launcher, make_scene, folder)
        yield made
    made.drop_used()
