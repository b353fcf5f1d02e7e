"""A key makes a POST safe to repeat: same key, same answer, one effect."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from marketplace.shared import sweeps
from tests.world import DAY, Client, Json, Person, World, new_job


def test_a_repeat_gets_the_stored_answer(world: World, acme: Client) -> None:
    first = acme.ask("POST", "/v1/jobs", new_job(), key="same")
    again = acme.ask("POST", "/v1/jobs", new_job(), key="same")
    assert first.status_code == again.status_code == 201
    assert again.text == first.text
    assert again.headers["etag"] == first.headers["etag"] == '"1"'
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(acme.get("/v1/jobs")["items"]) == 1


def test_another_body_under_the_same_key_gets_422(world: World, acme: Client) -> None:
    acme.post("/v1/jobs", new_job(), key="same")
    other = new_job(title="Another title")
    assert acme.refused("POST", "/v1/jobs", other, key="same") == "422 idempotency_key_reused"


def test_another_path_under_the_same_key_gets_422(world: World, acme: Client) -> None:
    one, two = world.job(acme), world.job(acme)
    acme.post(f"/v1/jobs/{one['id']}/publish", {}, key="same")
    path = f"/v1/jobs/{two['id']}/publish"
    assert acme.refused("POST", path, {}, key="same") == "422 idempotency_key_reused"


def test_keys_are_each_callers_own(world: World, acme: Client) -> None:
    another = world.client("Another client")
    mine = acme.post("/v1/jobs", new_job(), key="same")
    theirs = another.post("/v1/jobs", new_job(), key="same")
    assert mine["id"] != theirs["id"]


def test_money_needs_a_key(world: World, acme: Client, ana: Person, finn: Person) -> None:
    job = world.job(acme)
    deposit = {"amount_minor": 100, "success_url": "https://acme.example/"}
    for caller, path, body in (
        (acme, f"/v1/jobs/{job['id']}/publish", {}),
        (acme, "/v1/wallet/deposits", deposit),
        (ana, "/v1/claims", {"role_id": str(uuid.uuid4())}),
        (finn, "/v1/payout-runs", {"currency": "USD"}),
        (finn, "/v1/topups", {"amount_minor": 100, "currency": "USD"}),
    ):
        refusal = caller.refused("POST", path, body, key="")
        assert refusal == "400 idempotency_key_missing", path


def test_an_unreadable_key_gets_400(acme: Client) -> None:
    for key in ("x" * 256, "caf\xe9"):
        headers = {b"Idempotency-Key": key.encode("latin-1")}
        refusal = acme.refused("POST", "/v1/jobs", new_job(), key="", headers=headers)
        assert refusal == "400 idempotency_key_unreadable"


def test_concurrent_repeats_get_one_answer(world: World, acme: Client) -> None:
    job = world.job(acme, tasks=3)
    path = f"/v1/jobs/{job['id']}/publish"
    with ThreadPoolExecutor(8) as crowd:
        answers = list(crowd.map(lambda _: acme.ask("POST", path, {}, key="same"), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert acme.wallet_minor == 61_705


def test_a_refusal_by_state_is_stored(world: World, acme: Client) -> None:
    poor = world.client("Poor client")
    job = world.job(poor)
    path = f"/v1/jobs/{job['id']}/publish"
    assert poor.refused("POST", path, {}, key="same") == "409 wallet_too_low"
    world.deposit(poor, 100_000)
    assert poor.refused("POST", path, {}, key="same") == "409 wallet_too_low"
    assert poor.post(path, {}, key="another")["state"] == "open"


def test_not_found_is_stored_and_leaves_nothing(world: World, acme: Client) -> None:
    path = f"/v1/jobs/{uuid.uuid4()}/pause"
    assert acme.refused("POST", path, {}, key="same") == "404 not_found"
    assert acme.ask("POST", path, {}, key="same").headers["idempotent-replayed"] == "true"


def test_a_malformed_request_is_not_stored(acme: Client) -> None:
    assert acme.refused("POST", "/v1/jobs", {}, key="same") == "422 invalid_request"
    assert acme.post("/v1/jobs", new_job(), key="same")["state"] == "draft"


def test_a_forbidden_request_is_not_stored(world: World, ana: Person) -> None:
    ana.refused("POST", "/v1/jobs", new_job(), key="same")
    assert world.value("SELECT count(*) FROM idempotency_key") == 0


def test_secrets_are_not_stored(world: World, operator: Person) -> None:
    first = operator.post("/v1/invites", {"role": "performer"}, key="same")
    again = operator.refused("POST", "/v1/invites", {"role": "performer"}, key="same")
    assert again == "409 secret_shown_once"
    assert world.value("SELECT count(*) FROM invite") == 1
    (stored,) = world.sql("SELECT body FROM idempotency_key")
    assert first["code"] not in stored["body"]


def test_a_claims_repeat_gets_the_same_claim(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=2)
    role, other_role = world.roles(job)
    first = ana.ask("POST", "/v1/claims", {"role_id": role}, key="same")
    again = ana.ask("POST", "/v1/claims", {"role_id": role}, key="same")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.text == again.text
    assert again.headers["idempotent-replayed"] == "true"
    refusal = ana.refused("POST", "/v1/claims", {"role_id": other_role}, key="same")
    assert refusal == "422 idempotency_key_reused"


def test_a_deposits_repeat_opens_one_page(world: World, acme: Client) -> None:
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    first = acme.post("/v1/wallet/deposits", asked, key="same")
    again = acme.post("/v1/wallet/deposits", asked, key="same")
    assert first["checkout_url"] == again["checkout_url"]
    other = asked | {"amount_minor": 6_000}
    refusal = acme.refused("POST", "/v1/wallet/deposits", other, key="same")
    assert refusal == "422 idempotency_key_reused"


def test_a_deposit_goes_on_where_stripe_was_lost(world: World, acme: Client) -> None:
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    world.stripe.fault("apply_then_drop", path="/v1/checkout/sessions")
    refused = acme.refused("POST", "/v1/wallet/deposits", asked, key="same")
    assert refused == "503 stripe_unavailable"
    deposit = acme.post("/v1/wallet/deposits", asked, key="same")
    assert deposit["state"] == "awaiting_payment"
    objects = world.stripe.control("GET", "state")["objects"]
    assert objects["checkout.session"] == 2  # Acme's first deposit and this one


def test_a_key_is_forgotten_after_thirty_days(world: World, acme: Client) -> None:
    asked: list[Json] = []
    for _ in range(2):
        asked.append(acme.post("/v1/jobs", new_job(), key=f"same {len(asked)}"))
        world.advance(15 * DAY)
    again = acme.post("/v1/jobs", new_job(), key="same 0")
    assert again["id"] == asked[0]["id"]
    world.advance(60)
    world.sweep("expired_keys")
    assert acme.post("/v1/jobs", new_job(), key="same 1")["id"] == asked[1]["id"]
    assert acme.post("/v1/jobs", new_job(), key="same 0")["id"] != asked[0]["id"]
    assert world.sweep("expired_keys") == 0


def test_old_keys_go_in_batches_and_past_those_in_use(
    world: World, acme: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "BATCH", 2)
    for number in range(5):
        acme.post("/v1/jobs", new_job(), key=f"number {number}")
    world.advance(31 * DAY)
    with world.connection() as busy:
        busy.execute("SELECT FROM idempotency_key WHERE key = 'number 3' FOR UPDATE")
        world.sweep("expired_keys")
        left = "SELECT key FROM idempotency_key WHERE operation = 'create_job'"
        assert [row["key"] for row in world.sql(left)] == ["number 3"]
    assert world.sweep("expired_keys") == 1
