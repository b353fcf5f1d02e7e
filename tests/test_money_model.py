"""Every cent, after every step, as a model of its own says; and Stripe's balances, too.

Sequences of everything that moves money are made up, played over HTTP with the real database, the
real SDK and the sandbox, and compared after each step with a second set of books that was written
from the specification alone (`tests/money_model/`). At the end of each sequence all that is under
way comes to rest, and every invariant of `verify` must hold.

The suite plays the same few sequences each time, and shows one that fails as it was played. It is
shrunk to the few steps that matter, which takes minutes, by

    python -m pytest tests/test_money_model.py --hypothesis-profile=shrink

A campaign plays new ones, as long as you like, and shrinks what fails:

    python -m pytest tests/test_money_model.py --hypothesis-profile=campaign -n 2
    MONEY_MODEL_SEQUENCES=5000 …      how many in each of its two halves (500 unless you say so)
"""

import os
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import Scene
from tests.loopback import Loopback
from tests.money_model.machine import Money, Opened, opener, set_the_stage
from tests.money_model.stage import Cast
from tests.world import World

PROFILE = settings.get_current_profile_name()
IS_CAMPAIGN = PROFILE == "campaign"
PHASES = {Phase.explicit, Phase.reuse, Phase.generate}
PLAYED = settings(
    max_examples=int(os.environ.get("MONEY_MODEL_SEQUENCES", "500")) if IS_CAMPAIGN else 6,
    stateful_step_count=60 if IS_CAMPAIGN else 40,
    derandomize=not IS_CAMPAIGN,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=PHASES | {Phase.shrink} if PROFILE in {"campaign", "shrink"} else PHASES,
    print_blob=True,
)


@pytest.fixture(scope="session")
def stage(make_scene: Callable[[Callable[[World], Cast]], Scene]) -> Scene:
    return make_scene(set_the_stage)


@pytest.fixture
def opened(
    server: dict[str, str],
    maintenance: psycopg.Connection[Any],
    loopback: Loopback,
    stage: Scene,
    tmp_path_factory: pytest.TempPathFactory,
) -> Opened:
    return opener(server, maintenance, loopback, stage, tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("half", [1, 2])
def test_every_balance_is_as_the_model_says(opened: Opened, half: int) -> None:
    machine: Any = type("Played", (Money,), {"opened": staticmethod(opened)})
    if not IS_CAMPAIGN:
        seed(half)(machine)
    run_state_machine_as_test(machine, settings=PLAYED)
