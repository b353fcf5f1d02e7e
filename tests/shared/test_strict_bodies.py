"""Nasty input is a 422 that names the field, never a 500 and never a silent coercion."""

import base64
import json
import uuid
from typing import Any

import pytest

from tests.world import Client, Person, World, new_job


@pytest.fixture
def acme(world: World) -> Client:
    return world.client()


NASTY_NUMBERS = [True, "100", -5, 0, 2**31 * 10**9, 2**63, 10**400, 1.5, None, [], {}]
NOBODY = uuid.UUID(int=7)
NASTY_TEXTS = ["", "   ", "x" * 10**6, "a\x00b", "\x1b[2J", 7, True, None, ["a"], {"a": 1}]


def with_value(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(body))
    *parents, last = path.split(".")
    target: Any = copy
    for name in parents:
        target = target[int(name) if name.isdigit() else name]
    target[int(last) if last.isdigit() else last] = value
    return copy


@pytest.mark.parametrize("value", NASTY_NUMBERS, ids=lambda value: str(value)[:20])
def test_a_number_is_a_number(world: World, acme: Client, finn: Person, value: Any) -> None:
    deposit = {"amount_minor": value, "success_url": "https://acme.example/x"}
    assert acme.refused("POST", "/v1/wallet/deposits", deposit) == "422 invalid_request"
    topup = {"amount_minor": value, "currency": "USD"}
    assert finn.refused("POST", "/v1/topups", topup) == "422 invalid_request"
    withdrawal = {**topup, "reason": "Fees earned in October."}
    assert finn.refused("POST", "/v1/withdrawals", withdrawal) == "422 invalid_request"
    for path in ("rate_minor_per_hour", "tasks.0.copies"):
        wanted = with_value(new_job(), path, value)
        assert acme.refused("POST", "/v1/jobs", wanted) == "422 invalid_request", path


@pytest.mark.parametrize("value", NASTY_TEXTS, ids=lambda value: repr(value)[:20])
def test_a_text_is_a_text(world: World, acme: Client, value: Any) -> None:
    for path in ("title", "tasks.0.scenario.title", "tasks.0.roles.0.brief"):
        wanted = with_value(new_job(), path, value)
        assert acme.refused("POST", "/v1/jobs", wanted) == "422 invalid_request", path
    assert acme.get("/v1/jobs")["items"] == []


@pytest.mark.parametrize(
    "tag", ["english", "en_US_", "x" * 36, "e", "en-US-nonsense-too-long-subtag", "", 1, None]
)
def test_a_language_is_a_bcp_47_tag(acme: Client, tag: Any) -> None:
    wanted = with_value(new_job(), "specification.speakers.languages", [tag])
    assert acme.refused("POST", "/v1/jobs", wanted) == "422 invalid_request"


@pytest.mark.parametrize(
    "content",
    [
        b'{"amount_minor": NaN, "success_url": "https://a.example/"}',
        b'{"amount_minor": Infinity, "success_url": "https://a.example/"}',
        b'{"amount_minor": 100, "success_url": "https://a.example/", "note": 1e400}',
        b'{"amount_minor": 100, "amount_minor": 200, "success_url": "https://a.example/"}',
        b'{"amount_minor": 100, "success_url": "https://a.example/", "status": "credited"}',
        b'{"amount_minor": 100, "success_url": "https://a.example/\\u0000"}',
        b'{"amount_minor": 100, "success_url": "https://a.example/\\ud800"}',
        b'{"amount_minor": 100, "success_url": "https://a.example/\xff"}',
        b'{"amount_minor": 100, "success_url": "javascript:alert(1)"}',
        b'{"amount_minor": 100',
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"text"',
        b"",
    ],
    ids=range(15),
)
def test_json_is_read_strictly(acme: Client, content: bytes) -> None:
    answer = acme.ask(
        "POST", "/v1/wallet/deposits", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid_request"
    assert answer.json()["errors"]


@pytest.mark.parametrize(
    "moment",
    ["2026-12-14T06:00:00", "2026-12-14", "9999-12-31T23:59:59-12:00", "soon", 1_780_000_000, True],
)
def test_a_time_carries_its_offset(world: World, acme: Client, moment: Any) -> None:
    world.deposit(acme, 100_000)
    job = world.published_job(acme)
    path = f"/v1/rate-lineages/{job['lineage_id']}/rates"
    wanted = {"rate_minor_per_hour": 9_000, "reason": "a rise", "effective_from": moment}
    assert acme.refused("POST", path, wanted) == "422 invalid_request"
    query = {"query": {"as_of": str(moment)}}
    if isinstance(moment, str):
        assert acme.refused("GET", path, **query) == "422 invalid_request"


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "-1"},
        {"limit": "ten"},
        {"cursor": "!!"},
        {"cursor": "WyJ4Il0"},
        {"cursor": "x" * 501},
        {"cursor": "W1tbW1tb"},
        {"offset": "-1"},
        {"state": "published"},
    ],
    ids=str,
)
def test_a_query_is_read_strictly(acme: Client, query: dict[str, str]) -> None:
    assert acme.refused("GET", "/v1/jobs", query=query) == "422 invalid_request"


CURSORS = [
    *("[5]", "[true]", "[{}]", "[NaN]", "[Infinity]", "[null]", "[]", "{}", "5", '"text"', "null"),
    *('["NaN"]', '["1e5"]', '["99999999999999999999"]', '["-99999999999999999999"]', '["\\ud800"]'),
    *('{"5": 1}', f'["{NOBODY}", "{NOBODY}"]', f'["99999999999999999999", "{NOBODY}", "{NOBODY}"]'),
]


@pytest.mark.parametrize("content", CURSORS)
def test_a_made_up_cursor_is_422_in_every_list(
    acme: Client, ana: Person, finn: Person, operator: Person, ravi: Person, content: str
) -> None:
    cursor = base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")
    for caller, path in (
        (acme, "/v1/jobs"),
        (acme, "/v1/events"),
        (ana, "/v1/board"),
        (ana, "/v1/earnings/lines"),
        (finn, "/v1/payout-runs"),
        (operator, "/v1/performers"),
        (ravi, "/v1/auditions"),
        (ravi, "/v1/devices"),
        (acme.member, "/v1/api-keys"),
        (acme.member, "/v1/client/members"),
        (operator, "/v1/people"),
    ):
        refused = caller.refused("GET", path, query={"cursor": cursor})
        assert refused == "422 invalid_request", path


@pytest.mark.parametrize("bad", ["7", "null", "' OR 1=1", "%00", "0199", "🎭"])
def test_an_id_is_a_uuid(acme: Client, bad: str) -> None:
    assert acme.refused("GET", f"/v1/jobs/{bad}") == "422 invalid_request"


@pytest.mark.parametrize("value", [7, 1.0, True, "7", None, "x" * 36])
def test_an_id_in_a_body_is_a_uuid(ana: Person, value: Any) -> None:
    assert ana.refused("POST", "/v1/claims", {"role_id": value}) == "422 invalid_request"


def test_every_field_at_fault_is_listed(acme: Client) -> None:
    wanted = {"amount_minor": -5, "success_url": "ftp://x", "fee_minor": 0}
    problem = acme.ask("POST", "/v1/wallet/deposits", wanted).json()
    fields = {error["field"] for error in problem["errors"]}
    assert fields == {"body.amount_minor", "body.success_url", "body.fee_minor"}


def test_a_password_is_never_repeated_in_an_error(world: World) -> None:
    joining = {"code": "x", "email": "e", "name": "Ana", "password": "short-secret", "device": 7}
    answer = world.anybody.ask("POST", "/v1/join", joining)
    assert answer.status_code == 422
    assert "short-secret" not in answer.text


def test_a_path_that_is_not_there_is_a_problem_too(world: World) -> None:
    assert world.anybody.refused("GET", "/v1/nothing") == "404 no_such_path"
    assert world.anybody.refused("PATCH", "/v1/jobs") == "405 method_not_allowed"


def test_every_answer_names_its_request(world: World) -> None:
    ids = {world.anybody.ask("GET", "/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_health_and_readiness_are_public(world: World) -> None:
    assert world.anybody.get("/healthz") == {"status": "ok"}
    assert world.anybody.get("/readyz") == {"status": "ok"}
