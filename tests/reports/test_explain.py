"""Any cent can be followed both ways, and a link that is missing is seen."""

import pytest

from marketplace.reports import explain
from marketplace.reports.explain import tree as module
from tests.corrections.test_corrections import corrected
from tests.payouts.conftest import returned
from tests.reports.conftest import Paid, lift_all_guards, program
from tests.world import Person, World

# What is asked about → the query that names one.
ASKED = {
    "payout run": "SELECT id FROM payout_run",
    "payout": "SELECT id FROM payout",
    "payout line": "SELECT id FROM payout_line",
    "attempt": "SELECT id FROM payout_attempt",
    "transfer": "SELECT transfer_id FROM payout_attempt",
    "earning": "SELECT ledger_entry_id FROM payout_line",
    "ledger transaction": "SELECT ledger_transaction_id FROM pay_decision",
    "pay decision": "SELECT id FROM pay_decision",
    "claim": "SELECT id FROM claim",
    "time entry": "SELECT id FROM time_entry",
}
THE_WAY_OF_A_CENT = {
    "payout",
    "payout_line",
    "ledger_entry",
    "pay_decision",
    "claim",
    "time_entry",
    "rate",
}
STRIPES_LINE = "booked_balance_transaction"
ENTRY_OF = (
    "SELECT ledger_entry.id FROM ledger_entry"
    " JOIN ledger_transaction ON ledger_transaction.id = transaction_id"
    " WHERE kind = '{}' ORDER BY ledger_entry.id LIMIT 1"
)
CAME_IN = {
    "deposit": "SELECT id FROM deposit",
    "checkout": "SELECT checkout_session_id FROM deposit",
    "entry of a deposit": ENTRY_OF.format("deposit_credited"),
    "top-up": "SELECT id FROM topup",
    "top-up at Stripe": "SELECT stripe_topup_id FROM topup",
    "entry of a top-up": ENTRY_OF.format("topup_succeeded"),
    "line at Stripe": "SELECT id FROM booked_balance_transaction WHERE net_minor > 0 LIMIT 1",
}


def tree(world: World, id_: object) -> explain.Node:
    async def look() -> explain.Node | None:
        async with world.parts.sessions() as session:
            return await explain.explain(session, str(id_))

    found = world.loopback.run(look())
    assert found is not None
    return found


def tables(node: explain.Node) -> set[str]:
    return {node.table}.union(*map(tables, node.children))


@pytest.mark.parametrize("asked", ASKED)
def test_every_row_of_the_way_leads_to_both_ends(world: World, paid: Paid, asked: str) -> None:
    found = tree(world, world.value(ASKED[asked]))
    assert found.complete, "\n".join(explain.lines(found))
    # A run holds many payouts: each of them leads to its own transfer.
    ends = set() if asked == "payout run" else {STRIPES_LINE}
    assert tables(found) >= THE_WAY_OF_A_CENT | ends


def test_a_payout_leads_to_the_second_the_rate_and_the_transfer(world: World, paid: Paid) -> None:
    text = "\n".join(explain.lines(tree(world, paid.payout["transfer_id"])))
    for said in (
        f"payout {paid.payout['id']} 1.23 USD state=paid",
        f"idempotency_key=payout-{paid.payout['id']}-attempt-1 outcome=succeeded",
        "activity=perform seconds=60",
        "rate_minor_per_hour=7400 announced_at=",
        "kind=claim_paid",
        "kind=transfer_confirmed",
        "licence_version=acme-1",
        "Grief and relief",
    ):
        assert said in text, text
    assert "MISSING" not in text


@pytest.mark.parametrize("asked", CAME_IN)
def test_money_that_came_in_leads_to_its_bookings(world: World, paid: Paid, asked: str) -> None:
    found = tree(world, world.value(CAME_IN[asked]))
    assert found.complete, "\n".join(explain.lines(found))
    assert tables(found) >= {"ledger_transaction", "ledger_entry", STRIPES_LINE}


def test_money_set_aside_leads_to_its_booking_and_to_what_it_is_for(
    world: World, paid: Paid
) -> None:
    found = tree(
        world, world.value("SELECT id FROM reserve_move WHERE cause = 'published' LIMIT 1")
    )
    assert found.complete, "\n".join(explain.lines(found))
    booked = {"reserve_move", "ledger_transaction", "ledger_entry"}
    assert tables(found) == booked | {"reservation", "role", "task", "job"}


@pytest.mark.parametrize(
    ("asked", "leads_to"),
    [
        ("SELECT id FROM reservation LIMIT 1", {"reserve_move", "role", "job", "ledger_entry"}),
        (
            "SELECT role_id FROM claim",
            {"claim", "reservation", "payout", "booked_balance_transaction"},
        ),
        ("SELECT id FROM job", {"job"}),
        ("SELECT rate_id FROM claim", {"rate_lineage"}),
        ("SELECT stripe_account_id FROM payout_account", {"payout_account"}),
        (
            "SELECT source_id FROM stripe_line WHERE source_id LIKE 'ch_%%'",
            {"deposit", "ledger_entry"},
        ),
        ("SELECT source_id FROM stripe_line WHERE type = 'transfer'", {"payout", "claim"}),
    ],
)
def test_whatever_id_finance_has_is_found(
    world: World, paid: Paid, asked: str, leads_to: set[str]
) -> None:
    world.sweep("stripe_lines")
    id_ = world.value(asked)
    assert id_ is not None
    found = tree(world, id_)
    assert found.complete, "\n".join(explain.lines(found))
    assert tables(found) >= leads_to
    assert paid.finn.get(f"/v1/explanations/{id_}")["complete"]


@pytest.mark.parametrize(
    "asked",
    [
        "SELECT id FROM transfer_reversal",
        "SELECT reversal_id FROM transfer_reversal",
        "SELECT id FROM claim",
        "SELECT id FROM payout WHERE state = 'paid'",
        "SELECT transfer_id FROM payout WHERE state = 'reversed'",
        ENTRY_OF.format("transfer_reversed"),
    ],
)
def test_what_came_back_and_was_paid_again_is_one_way(world: World, paid: Paid, asked: str) -> None:
    """From the work over the first payout and its reversal to the second, and all the way back."""
    returned(world, paid.finn, paid.fay, paid.payout, "wrong_destination")
    world.replace_account(paid.ana, paid.finn)
    run = paid.finn.post("/v1/payout-runs", {"currency": "USD"})
    paid.fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    found = tree(world, world.value(asked))
    text = "\n".join(explain.lines(found))
    assert found.complete, text
    assert tables(found) >= {*THE_WAY_OF_A_CENT, STRIPES_LINE, "transfer_reversal"}
    assert "cause=wrong_destination reason=It is not hers." in text
    if asked.startswith("SELECT id FROM claim"):
        assert text.count("payout_run") == 2


@pytest.mark.parametrize(
    "asked",
    [
        "SELECT id FROM correction",
        "SELECT id FROM claim",
        "SELECT ledger_transaction_id FROM correction",
    ],
)
def test_a_correction_leads_to_the_claim_and_to_its_booking(
    world: World, paid: Paid, asked: str
) -> None:
    corrected(paid.finn, paid.fay, paid.claim, 200)
    run = paid.finn.post("/v1/payout-runs", {"currency": "USD"})
    paid.fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    found = tree(world, world.value(asked))
    text = "\n".join(explain.lines(found))
    assert found.complete, text
    assert tables(found) >= {"correction", "claim", "rate", "payout", STRIPES_LINE}
    assert "kind=pay_corrected state=approved seconds=200 booked_minor=123" in text


# Where one asks → what was done to the rows → what is missing then.
MISSING = {
    "a rate": ("payout", "DELETE FROM rate", "leads to no rate ("),
    "a consent": ("claim", "DELETE FROM consent_grant", "leads to no consent_grant"),
    "a role": ("claim", "DELETE FROM role", "leads to no role"),
    "a decision": ("earning", "DELETE FROM pay_decision", "leads to no pay_decision"),
    "a claim": ("transfer", "DELETE FROM claim", "leads to no claim"),
    "a line": ("payout", "DELETE FROM payout_line", "leads to no payout_line"),
    "a run": ("payout", "DELETE FROM payout_run", "leads to no payout_run"),
    "an attempt": ("payout", "DELETE FROM payout_attempt", "leads to no payout_attempt"),
    "the booking of the pay": (
        "claim",
        "UPDATE pay_decision SET ledger_transaction_id = NULL",
        "leads to no ledger_transaction",
    ),
    "the booking of the transfer": (
        "attempt",
        "DELETE FROM ledger_transaction WHERE kind = 'transfer_confirmed'",
        "leads to no ledger_transaction",
    ),
    "the rate of an entry": ("time entry", "DELETE FROM rate", "leads to no rate ("),
    **{
        f"a second of the {asked}": (
            asked,
            "UPDATE time_entry SET ended_at = ended_at - interval '1 second'",
            "its time entries sum to 59 s, its pay decision says 60 s",
        )
        for asked in ("payout", "claim", "time entry")
    },
    **{
        f"Stripe's line of the {asked}": (
            asked,
            "DELETE FROM booked_balance_transaction",
            "leads to no booked_balance_transaction",
        )
        for asked in ("transfer", "claim", "deposit", "entry of a deposit", "top-up")
    },
    "a cent of the pay": (
        "time entry",
        "UPDATE pay_decision SET pay_minor = 122",
        "60 s at its rate make 123",
    ),
    "a cent of the line": (
        "payout",
        "UPDATE payout_line SET amount_minor = 122",
        "its lines sum to 122",
    ),
    "a cent of the earning": (
        "payout",
        "UPDATE payout_line SET amount_minor = 124",
        "its earning is 123",
    ),
    "the rate's own figure": (
        "claim",
        "UPDATE rate SET rate_minor_per_hour = 7500",
        "its rate row says 7500, the claim 7400",
    ),
    "a side of a booking": (
        "ledger transaction",
        "UPDATE ledger_entry SET amount_minor = amount_minor + 1 WHERE amount_minor > 0",
        "its entries sum to 1",
    ),
}


@pytest.mark.parametrize("missing", MISSING)
def test_what_is_missing_is_named(world: World, paid: Paid, missing: str) -> None:
    asked, planted, said = MISSING[missing]
    id_ = world.value((ASKED | CAME_IN)[asked])
    lift_all_guards(world)
    world.owner_sql(planted)
    found = tree(world, id_)
    assert not found.complete
    assert any(f"MISSING: {said}" in line for line in explain.lines(found)), "\n".join(
        explain.lines(found)
    )


def test_one_answer_holds_so_much(
    world: World, paid: Paid, finn: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 5)
    path = f"/v1/explanations/{paid.payout['id']}"
    assert finn.refused("GET", path) == "409 too_much_to_explain"
    assert paid.ana.refused("GET", path) == "404 not_found"


class TestTheCommand:
    def test_a_whole_way(self, world: World, paid: Paid) -> None:
        code, out = program(world, "explain", paid.payout["id"])
        assert code == 0
        assert out.startswith(f"payout {paid.payout['id']} 1.23 USD")

    @pytest.mark.parametrize("gap", ["rate", STRIPES_LINE])
    def test_a_way_with_a_gap(self, world: World, paid: Paid, gap: str) -> None:
        lift_all_guards(world)
        world.owner_sql(f"DELETE FROM {gap}")
        code, out = program(world, "explain", paid.payout["transfer_id"])
        assert code == 1
        assert f"MISSING: leads to no {gap}" in out

    @pytest.mark.parametrize("id_", ["tr_unheard_of", "01900000-0000-7000-8000-000000000000"])
    def test_nothing_of_ours(self, world: World, paid: Paid, id_: str) -> None:
        assert program(world, "explain", id_) == (2, "")
