"""The reports' bytes are what the description says: no field more, none less, in its order."""

import json

import pytest

from marketplace.reports.schemas import Exact, PayoutReport, RateReport, TrialBalance
from tests.reports.conftest import Paid
from tests.world import Person, World


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/reports/payout-runs/{run}", PayoutReport),
        ("/v1/reports/rates", RateReport),
        ("/v1/reports/trial-balance", TrialBalance),
    ],
)
def test_a_report_is_what_is_described(
    world: World, paid: Paid, ravi: Person, finn: Person, path: str, answer: type[Exact]
) -> None:
    world.accepted_claim(world.performer("Dan"), paid.job, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    for run_id in (paid.run["id"], run["id"]):
        text = finn.ask("GET", path.format(run=run_id)).text
        # Dumped by the description's fields, it is the same report, field by field.
        described = answer.model_validate_json(text).model_dump_json()
        assert json.dumps(json.loads(described)) == json.dumps(json.loads(text))
