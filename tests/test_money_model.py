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
from tests.money_model.stories import (
    FROM_DEPOSIT_TO_PAY,
    FROM_PAY_TO_STRIPE,
    FROM_STRIPE_BACK,
    PLAYED_WELL,
    STATES,
    Step,
)
from tests.world import World

PROFILE = settings.get_current_profile_name()
IS_CAMPAIGN = PROFILE == "campaign"
PHASES = {Phase.explicit, Phase.reuse, Phase.generate}
PLAYED = settings(
    max_examples=int(os.environ.get("MONEY_MODEL_SEQUENCES", "500")) if IS_CAMPAIGN else 2,
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


def play(money: Money, *steps: Step) -> None:
    """Rules in an order of our own, compared after each as Hypothesis does."""
    for rule, *given in steps:
        rule(money, *given)
        money.agree()


def test_everything_happens_at_least_once(opened: Opened) -> None:
    """Made-up sequences may miss something; this one does not."""
    machine: Any = type("Played", (Money,), {"opened": staticmethod(opened)})
    money: Money = machine()
    try:
        play(money, *FROM_DEPOSIT_TO_PAY)
        assert {claim.state for claim in money.claims} == {"settled", "released", "expired"}
        assert {claim.withheld_until is None for claim in money.claims} == {True, False}
        play(money, *FROM_PAY_TO_STRIPE)
        assert {payout.state for payout in money.payouts_in(*STATES)} == {"paid", "released"}
        play(money, *FROM_STRIPE_BACK)
        assert {each.state for each in money.reversals} == {"reversed", "rejected"}
        assert {each.state for each in money.refunds} == {"succeeded", "returned", "refused"}
        assert {each.state for each in money.withdrawals} == {"out", "returned"}
    finally:
        money.teardown()


# Each fault, and what becomes of it a day later: found there, or called absent and paid again.
@pytest.mark.parametrize("fault", ["error_500_after_apply", "drop_before", "429", "409"])
def test_an_outcome_that_is_unknown_for_a_day(opened: Opened, fault: str) -> None:
    machine: Any = type("Played", (Money,), {"opened": staticmethod(opened)})
    money: Money = machine()
    try:
        play(
            money,
            (Money.begin, 100_000, True, 1_500),
            (Money.a_role_is_played, 0, 0, PLAYED_WELL),
            (Money.a_take_is_judged, 0, "accept"),
            (Money.it_is_payday, fault),
            (Money.time_passes, 50, True),
            (Money.payouts_are_sent, None),
        )
        if fault != "error_500_after_apply":
            play(
                money,
                (Money.one_is_called_absent, 0),
                (Money.one_is_approved_again, 0),
                (Money.payouts_are_sent, None),
            )
        assert [payout.state for payout in money.payouts_in(*STATES)] == ["paid"]
    finally:
        money.teardown()
