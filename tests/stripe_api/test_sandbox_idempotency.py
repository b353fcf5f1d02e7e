"""The sandbox's memory of keys, as Stripe documents its own."""

from concurrent.futures import ThreadPoolExecutor

from .conftest import DAY_SECONDS, Sandbox

TOPUP = "amount=1000&currency=usd"


def _topups(sandbox: Sandbox) -> int:
    return len(sandbox.ask("GET", "/v1/topups").json()["data"])


def test_same_key_replays_the_first_answer(sandbox: Sandbox) -> None:
    first = sandbox.ask("POST", "/v1/topups", TOPUP, key="k")
    again = sandbox.ask("POST", "/v1/topups", "currency=usd&amount=1000", key="k")
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["original-request"] == first.headers["request-id"]
    assert "idempotent-replayed" not in first.headers
    assert _topups(sandbox) == 1


def test_other_parameters_under_a_used_key_are_refused(sandbox: Sandbox) -> None:
    sandbox.ask("POST", "/v1/topups", TOPUP, key="k")
    for path, form in (("/v1/topups", f"{TOPUP}&description=x"), ("/v1/transfers", TOPUP)):
        answer = sandbox.ask("POST", path, form, key="k")
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "idempotency_error")
    assert _topups(sandbox) == 1


def test_key_in_flight_gets_409_and_then_the_answer(sandbox: Sandbox) -> None:
    sandbox.fault("slow", path="/v1/topups", seconds=0.5)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(sandbox.ask, "POST", "/v1/topups", TOPUP, key="k") for _ in range(4)]
        answers = [one.result() for one in asked]
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["error"]["code"] == "idempotency_key_in_use"
    assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k").status_code == 200
    assert _topups(sandbox) == 1


def test_many_at_once_with_one_key_take_effect_once(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(sandbox.ask, "POST", "/v1/topups", TOPUP, key="k") for _ in range(40)]
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert _topups(sandbox) == 1


def test_key_is_forgotten_after_a_virtual_day(sandbox: Sandbox) -> None:
    first = sandbox.ask("POST", "/v1/topups", TOPUP, key="k").json()
    sandbox.pass_time(DAY_SECONDS - 60)
    assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k").json()["id"] == first["id"]
    sandbox.pass_time(61)
    assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k").json()["id"] != first["id"]


def test_failed_validation_leaves_the_key_free(sandbox: Sandbox) -> None:
    assert sandbox.ask("POST", "/v1/topups", "amount=0&currency=usd", key="k").status_code == 400
    assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k").status_code == 200


def test_refusal_of_an_operation_that_ran_is_replayed(sandbox: Sandbox) -> None:
    account = sandbox.ask("POST", "/v1/accounts", "capabilities[transfers][requested]=true").json()
    sandbox.control("PUT", f"accounts/{account['id']}/capabilities", transfers="active")
    form = f"{TOPUP}&destination={account['id']}"
    refused = sandbox.ask("POST", "/v1/transfers", form, key="k")
    assert refused.json()["error"]["code"] == "balance_insufficient"
    sandbox.ask("POST", "/v1/topups", TOPUP)
    replayed = sandbox.ask("POST", "/v1/transfers", form, key="k")
    assert replayed.headers["idempotent-replayed"] == "true"
    assert replayed.json() == refused.json()
    assert sandbox.ask("POST", "/v1/transfers", form, key="k2").status_code == 200


def test_server_error_is_replayed_though_the_effect_is_there(sandbox: Sandbox) -> None:
    sandbox.fault("error_500_after_apply", path="/v1/topups")
    assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k").status_code == 500
    replayed = sandbox.ask("POST", "/v1/topups", TOPUP, key="k")
    assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (500, "true")
    assert _topups(sandbox) == 1


def test_busy_and_conflicting_requests_leave_the_key_free(sandbox: Sandbox) -> None:
    for kind, status in (("429", 429), ("409", 409)):
        sandbox.fault(kind, path="/v1/topups")
        assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k").status_code == status
    assert _topups(sandbox) == 0
    assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k").status_code == 200


def test_key_longer_than_stripe_takes_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.ask("POST", "/v1/topups", TOPUP, key="k" * 256).status_code == 400
