"""The worked example of the README, over HTTP and to the cent."""

from tests.world import ACCEPT, DAY, REFUSE, Client, Person, World


def test_three_tasks_from_deposit_to_transfer(
    world: World, acme: Client, ravi: Person, second_reviewer: Person, finn: Person, fay: Person
) -> None:
    world.capital(finn, 5_000)
    ana, bea, cleo = (world.performer(name, onboarded=True) for name in ("Ana", "Bea", "Cleo"))
    assert world.ledger("stripe_fees") == 2_930
    job = world.published_job(acme, tasks=3)
    assert acme.wallet_minor == 61_705

    expired = world.claim(ana, job)
    world.work(ana, expired, "prep", 600)
    world.advance(DAY + HALF_A_SESSION)
    world.sweep("expiry")
    assert acme.wallet_minor == 60_287
    ravi.post(f"/v1/claims/{expired['id']}/pay")
    assert pay(ana, expired) == (600, 1_233)
    assert acme.wallet_minor == 60_287

    accepted = world.claim(bea, job)
    world.work(bea, accepted, "prep", 600)
    world.work(bea, accepted, "perform", 2_400)
    world.hand_in(bea, accepted, world.take(bea, accepted, found="retake"))
    world.work(bea, accepted, "retake", 700)
    world.hand_in(bea, accepted, world.take(bea, accepted))
    world.judge(ravi, ACCEPT)
    assert pay(bea, accepted) == (3_700, 7_606)
    assert acme.wallet_minor == 64_305

    refused = world.claim(cleo, job)
    world.work(cleo, refused, "prep", 600)
    world.work(cleo, refused, "perform", 1_900)
    world.hand_in(cleo, refused, world.take(cleo, refused))
    world.judge(ravi, REFUSE)
    world.judge(second_reviewer, REFUSE)
    assert pay(cleo, refused) == (2_500, 5_139)
    assert acme.wallet_minor == 58_395

    closed = acme.post(f"/v1/jobs/{job['id']}/close", {})
    assert closed["state"] == "closed"
    assert closed["roles"] == {"withdrawn": 2, "done": 1}
    assert acme.wallet_minor == 83_925

    world.advance(2 * DAY)
    world.sweep("funds")
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    assert (run["payouts"], run["amount_minor"], run["excluded"]) == (3, 13_978, 0)
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    assert finn.get(f"/v1/payout-runs/{run['id']}")["paid_minor"] == 13_978

    assert sorted(transfer["amount"] for transfer in world.stripe.transfers()) == [
        1_233,
        5_139,
        7_606,
    ]
    assert world.ledger("platform_fees") == -2_097
    assert world.ledger("stripe_available") == world.stripe.platform_minor == 88_092
    assert world.ledger("transfers_in_flight") == 0
    assert world.value("SELECT sum(amount_minor)::bigint FROM ledger_entry") == 0


# The session that the first claim started pushed its deadline out by the role's caps.
HALF_A_SESSION = 2_400


def pay(performer: Person, claim: dict[str, str]) -> tuple[int, int]:
    decision = performer.get(f"/v1/claims/{claim['id']}/pay")
    return decision["seconds"], decision["pay_minor"]
