"""What those who keep it running see: lines of JSON without secrets, and metrics that are true."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from pydantic import SecretStr

from marketplace.reports import gauges
from marketplace.shared.logs import redacted
from tests.processes import END_SECONDS, environment
from tests.world import APP, DAY, Client, Person, World

SCRAPER = "a token for the scraper alone"
PASSWORD = "a long sentence of my own"


def test_a_served_request_is_one_line_without_secrets(
    world: World, acme: Client, ana: Person, operator: Person, tmp_path: Path
) -> None:
    code = operator.post("/v1/invites", {"role": "reviewer"})["code"]
    errors = tmp_path / "stderr"
    arguments = ("serve", "--port", "0", "--data", str(tmp_path / "data"))
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "marketplace", *arguments],
            env={
                **environment(world),
                "METRICS_TOKEN": SCRAPER,
                "CORS_ORIGINS": '["https://app.example"]',
            },
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        bearer = {"Authorization": f"Bearer {ana.token}"}
        with httpx.Client(base_url=url, trust_env=False) as http:
            asked = [
                http.get("/v1/me", headers=bearer),
                http.get("/v1/me", headers={"Authorization": f"Bearer {ana.token}x"}),
                http.get(f"/v1/downloads/{acme.token}"),
                http.post(
                    "/v1/join",
                    json={
                        "code": code,
                        "email": "rosa@example.org",
                        "name": "Rosa",
                        "password": PASSWORD,
                        "device": "phone",
                    },
                ),
                http.post(
                    "/v1/sign-in",
                    json={"email": "rosa@example.org", "password": "wrong", "device": "phone"},
                ),
                http.get("/nowhere", params={"token": acme.token}),
                http.options(
                    "/v1/me",
                    headers={
                        "Origin": "https://app.example",
                        "Access-Control-Request-Method": "GET",
                    },
                ),
            ]
            metrics = http.get("/metrics", headers={"Authorization": f"Bearer {SCRAPER}"}).text
        process.terminate()
        process.wait(END_SECONDS)
        process.stdout.close()
    text = errors.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    told = {line["request_id"]: line for line in lines if "operation" in line}
    for answer in asked:
        line = told[answer.headers["x-request-id"]]
        assert line["status"] == answer.status_code
        assert line["milliseconds"] >= 0
    preflight = asked[-1]
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert told[preflight.headers["x-request-id"]]["operation"] == "preflight"
    first = told[asked[0].headers["x-request-id"]]
    assert (first["operation"], first["actor"]) == ("read_me", ana.id)
    for secret in (ana.token, acme.token, code, PASSWORD, "rosa@example.org", SCRAPER):
        assert str(secret) not in text
    assert str(sa.make_url(world.app_url).password) not in text
    assert 'marketplace_requests_total{operation="read_me",status="200"} 1.0' in metrics
    assert 'marketplace_requests_total{operation="no_such_path",status="404"} 1.0' in metrics


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("token mkt_live_abcdefghijklmnopqrstuvwxyz0123456789 is old", "token … is old"),
        ("postgresql://app:s3cr3t@db/market", "postgresql://…@db/market"),
        ("Bearer abc.def sent", "Bearer … sent"),
        ("key sk_test_51H whsec_abc", "key … …"),
        ("refused\nDETAIL: Key (email)=(ana@example.org) exists.", "refused\nDETAIL: …"),
        (
            "refused\nDETAIL:  Failing row (two\nlines, \n\nana@example.org).\nHINT:  None.\n[SQL: …]",
            "refused\nDETAIL: …\nHINT:  None.\n[SQL: …]",
        ),
        ("refused\nDETAIL:  two\nlines\nof it", "refused\nDETAIL: …"),
        (
            "refused\nDETAIL:  two\nlines\n\nThe above exception was the direct cause of …",
            "refused\nDETAIL: …\nThe above exception was the direct cause of …",
        ),
        ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "…"),
    ],
)
def test_what_is_secret_is_left_out(text: str, kept: str) -> None:
    assert redacted(text) == kept


def gauges_of(world: World) -> dict[tuple[str, ...], float]:
    """(name, label …) → value, as Prometheus would be told."""

    async def look() -> list[GaugeMetricFamily]:
        async with world.parts.sessions() as session:
            return await gauges.look(session)

    return {
        (family.name, *sample.labels.values()): sample.value
        for family in world.loopback.run(look())
        for sample in family.samples
    }


def test_what_nobody_came_for_is_late(world: World, acme: Client, ana: Person) -> None:
    world.claim(ana, world.published_job(acme))
    waiting = ("marketplace_waiting_rows", "claim_deadline")
    late = ("marketplace_late_rows", "claim_deadline")
    told = gauges_of(world)
    assert (told[waiting], told[late]) == (1, 0)
    world.advance(2 * DAY)
    told = gauges_of(world)
    assert (told[waiting], told[late]) == (1, 1)
    world.sweep("expiry")
    told = gauges_of(world)
    assert (told[waiting], told[late]) == (0, 0)
    assert told["marketplace_owed_minor", "USD"] == 100_000
    assert told["marketplace_cash_minor", "USD"] == 97_070


def test_what_nothing_protects_yet_has_an_age(world: World, acme: Client) -> None:
    unsealed = ("marketplace_unsealed_seconds",)
    world.advance(DAY)
    assert gauges_of(world)[unsealed] >= DAY
    world.sweep("seal")
    assert gauges_of(world)[unsealed] == 0


def test_without_the_database_the_process_tells_of_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_session: object) -> None:
        raise sa.exc.TimeoutError

    monkeypatch.setattr(gauges, "look", gone)
    settings = world.settings.model_copy(update={"metrics_token": SecretStr(SCRAPER)})
    monkeypatch.setattr(APP.state, "settings", settings)
    answer = world.anybody.ask("GET", "/metrics", headers={"Authorization": f"Bearer {SCRAPER}"})
    assert answer.status_code == 200
    assert "marketplace_requests_total" in answer.text
    assert "marketplace_waiting_rows" not in answer.text


def test_without_a_token_of_their_own_there_are_no_metrics(world: World) -> None:
    assert world.anybody.refused("GET", "/metrics") == "404 not_found"
