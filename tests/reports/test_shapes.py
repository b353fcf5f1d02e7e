"""The reports' bytes are what the description says: no field more, none less, in its order."""

import json

import pytest

from marketplace.periods.schemas import Journal
from marketplace.reports.schemas import (
    Exact,
    Fees,
    Liabilities,
    PayoutReport,
    PerformerReport,
    RateReport,
    Reconciliation,
    RollForward,
    TrialBalance,
)
from tests.reports.conftest import Paid
from tests.world import Person, World


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/reports/payout-runs/{run}", PayoutReport),
        ("/v1/reports/performers/{performer}", PerformerReport),
        ("/v1/reports/rates", RateReport),
        ("/v1/reports/trial-balance", TrialBalance),
        ("/v1/reports/reconciliation", Reconciliation),
        ("/v1/reports/liabilities", Liabilities),
        ("/v1/reports/roll-forward?since=2020-01-01T00:00:00Z", RollForward),
        ("/v1/reports/fees?since=2020-01-01T00:00:00Z", Fees),
        ("/v1/periods/{month}/journal", Journal),
    ],
)
def test_a_report_is_what_is_described(
    world: World, paid: Paid, ravi: Person, finn: Person, path: str, answer: type[Exact | Journal]
) -> None:
    world.accepted_claim(world.performer("Dan"), paid.job, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    month = finn.get("/v1/periods")["items"][0]["month"]
    world.stripe.fee(200)
    world.sweep("stripe_lines")
    for run_id in (paid.run["id"], run["id"]):
        text = finn.ask("GET", path.format(run=run_id, month=month, performer=paid.ana.id)).text
        # Dumped by the description's fields, it is the same report, field by field.
        described = answer.model_validate_json(text).model_dump_json()
        assert json.dumps(json.loads(described)) == json.dumps(json.loads(text))
