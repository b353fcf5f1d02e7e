"""All rules together, and the stage they begin on."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from tests.conftest import Scene, copied
from tests.loopback import Loopback
from tests.money_model.auditions import AUDITION_MINOR_PER_HOUR, Auditions
from tests.money_model.decisions import Decisions
from tests.money_model.disputes import Disputes
from tests.money_model.reversals import Reversals
from tests.money_model.stage import Cast
from tests.money_model.withdrawals import Withdrawals
from tests.world import World


class Money(Auditions, Decisions, Reversals, Disputes, Withdrawals):
    """One sequence: a world of its own, and everything that may happen in it."""

    @initialize(
        capital_minor=st.sampled_from([100_000, 0, 777]),
        noticed=st.sampled_from([True, True, False]),
        fee_basis_points=st.sampled_from([1_500, 0, 1_275, 333]),
    )
    def begin(self, capital_minor: int, noticed: bool, fee_basis_points: int) -> None:
        """Somebody has paid, and there is a job."""
        self.set_fee(fee_basis_points)
        self.both_clients_pay(capital_minor=capital_minor, noticed=noticed)
        self.a_job_is_drafted(0, 3, (40, 100), 1, 0)
        self.roles_are_published(0, None)


def set_the_stage(world: World) -> Cast:
    olga = world.operator()
    olga.post(
        "/v1/audition-rates",
        {
            "currency": "USD",
            "rate_minor_per_hour": AUDITION_MINOR_PER_HOUR,
            "reason": "what an hour is worth",
        },
    )
    applicants = [world.performer(name, vetted=False) for name in ("Dan", "Eve")]
    performers = [world.performer(name) for name in ("Ana", "Bea", "Cleo")]
    # Cleo has no account yet.
    accounts = {performer.id: world.onboard(performer) for performer in performers[:2]}
    return Cast(
        clients=[world.client(name) for name in ("Acme Voice Lab", "Globex")],
        performers=performers,
        applicants=applicants,
        reviewers=[world.reviewer(name) for name in ("Ravi", "Rosa")],
        finn=world.finance("Finn"),
        fay=world.finance("Fay"),
        olga=olga,
        accounts=accounts,
    )


Opened = Callable[[], AbstractContextManager[tuple[World, Cast]]]


def opener(
    server: dict[str, str],
    maintenance: psycopg.Connection[Any],
    loopback: Loopback,
    scene: Scene,
    files: Path,
) -> Opened:
    """Each sequence begins with a copy of the same stage."""

    @contextmanager
    def opened() -> Iterator[tuple[World, Cast]]:
        with (
            copied(server, maintenance, scene.database) as urls,
            World(
                owner_url=urls["owner"],
                app_url=urls["app"],
                loopback=loopback,
                files=files,
                sandbox=scene.sandbox,
            ) as world,
        ):
            yield world, scene.cast_in(world)

    return opened
