"""The board: what a performer may claim, in an order with reasons."""

from datetime import timedelta
from typing import Any

import pytest

from tests.world import Client, Person, World


def board(performer: Person, **query: Any) -> list[str]:
    """The titles of the jobs on it, role by role."""
    return [item["title"] for item in performer.get("/v1/board", **query)["items"]]


@pytest.mark.parametrize(
    ("spoken", "wanted", "sees"),
    [
        (["en-US"], ["en-US"], True),
        (["en-US"], ["en"], True),
        (["en"], ["en-US"], False),
        (["en"], ["en"], True),
        (["en-GB"], ["en-US"], False),
        (["de"], ["en"], False),
        (["fil"], ["fi"], False),
        (["de", "en-GB"], ["fr", "en"], True),
        (["zh-Hant-TW"], ["zh-Hant"], True),
    ],
)
def test_a_variety_speaks_its_language(
    world: World, acme: Client, spoken: list[str], wanted: list[str], sees: bool
) -> None:
    performer = world.performer(languages=spoken)
    job = world.published_job(acme, languages=wanted)
    assert bool(board(performer)) is sees
    answer = performer.ask("POST", "/v1/claims", {"role_id": world.roles(job)[0]})
    assert answer.status_code == (201 if sees else 404)


def test_all_skills_are_required(world: World, acme: Client) -> None:
    world.published_job(acme, skills=["improv", "singing"])
    assert board(world.performer(skills=["improv"])) == []
    assert len(board(world.performer(skills=["improv", "singing", "fencing"]))) == 1


def test_nobody_sees_their_own_clients_jobs(world: World, acme: Client, operator: Person) -> None:
    performer = world.performer()
    job = world.published_job(acme)
    code = acme.member.post("/v1/client/invites")["code"]
    assert len(board(performer)) == 1
    performer.post("/v1/invites/accept", {"code": code})
    assert board(performer) == []
    refused = performer.refused("POST", "/v1/claims", {"role_id": world.roles(job)[0]})
    assert refused == "404 not_found"


def test_only_the_vetted_see_anything(world: World, acme: Client, operator: Person) -> None:
    job = world.published_job(acme)
    applicant = world.performer(vetted=False)
    vetted = world.performer()
    assert board(applicant) == []
    role = {"role_id": world.roles(job)[0]}
    assert applicant.refused("POST", "/v1/claims", role) == "403 not_vetted"
    operator.post(f"/v1/performers/{vetted.id}/suspend", {"reason": "being looked into"})
    assert board(vetted) == []
    assert vetted.refused("POST", "/v1/claims", role) == "403 not_vetted"
    operator.post(f"/v1/performers/{vetted.id}/reinstate", {"reason": "all is well"})
    assert len(board(vetted)) == 1


def test_the_best_fit_comes_first_and_says_why(world: World, acme: Client) -> None:
    performer = world.performer(accents=["midwest"], age_band="25-34")
    world.published_job(acme, title="any English", languages=["en"])
    world.published_job(acme, title="exact", languages=["en-US"])
    world.published_job(acme, title="accent", languages=["en-US"], accents=["midwest", "texas"])
    world.published_job(
        acme, title="all", languages=["en-US"], accents=["midwest"], age_bands=["25-34"]
    )
    items = performer.get("/v1/board")["items"]
    assert [item["title"] for item in items] == ["all", "accent", "exact", "any English"]
    assert [item["fit"] for item in items] == [9, 7, 4, 0]
    assert items[0]["fit_reasons"] == [
        {"factor": "language", "matched": ["en-US"], "points": 4},
        {"factor": "accent", "matched": ["midwest"], "points": 3},
        {"factor": "age_band", "matched": "25-34", "points": 2},
    ]
    assert items[3]["fit_reasons"] == []


def test_an_item_shows_what_is_promised(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme)
    item = ana.get("/v1/board")["items"][0]
    assert item["rate_minor_per_hour"] == 7_400
    assert item["rate_history"][0]["reason"] == "First job of its kind"
    assert item["lineage_id"] == job["lineage_id"]
    assert item["licence"]["version"] == "acme-1"
    claim = ana.post("/v1/claims", {"role_id": item["role_id"]})
    assert claim["pay_by"] == item["pay_by"]
    assert claim["rate_id"] == item["rate_id"] == job["rate"]["id"]


def test_an_item_shows_the_last_ten_changes_of_its_rate(
    world: World, acme: Client, ana: Person
) -> None:
    job = world.published_job(acme)
    path = f"/v1/rate-lineages/{job['lineage_id']}/rates"
    for number in range(4):
        acme.post(path, {"rate_minor_per_hour": 7_500 + number, "reason": "more and more"})
        world.advance(61)
    for number in range(9):
        takes_effect = (world.now + timedelta(days=15 + number)).isoformat()
        cut = {"rate_minor_per_hour": 7_000 - number, "reason": "less and less"}
        acme.post(path, {**cut, "effective_from": takes_effect})
    (item,) = ana.get("/v1/board")["items"]
    told = item["rate_history"]
    whole = ana.get(path)["items"]
    assert told == [{name: rate[name] for name in told[0]} for rate in whole[:10]]
    assert told[9]["rate_minor_per_hour"] == item["rate_minor_per_hour"] == 7_503
    assert (told[8]["previous_rate_minor_per_hour"], told[8]["change_percent"]) == (7_503, "-6.70")


def test_filters_narrow(world: World, acme: Client) -> None:
    performer = world.performer(languages=["en-US", "de"])
    first = world.published_job(acme, title="English")
    world.published_job(
        acme, title="German", languages=["de"], elicitation="read", rate_minor_per_hour=9_000
    )
    assert board(performer, job_id=first["id"]) == ["English"]
    assert board(performer, language="de") == ["German"]
    assert board(performer, elicitation="read") == ["German"]
    assert board(performer, minimum_rate_minor_per_hour=8_000) == ["German"]
    assert board(performer, minimum_rate_minor_per_hour=9_001) == []
    assert performer.refused("GET", "/v1/board", query={"language": "xx_"}).startswith("422")
    assert performer.refused("GET", "/v1/board", query={"city": "Rome"}).startswith("422")


def test_pages_neither_repeat_nor_miss(world: World, acme: Client, ana: Person) -> None:
    world.deposit(acme, 1_000_000)
    jobs = [
        world.published_job(acme, tasks=3, title="exact"),
        world.published_job(acme, tasks=4, title="any", languages=["en"]),
        world.published_job(acme, tasks=5, title="accent", accents=["midwest"]),
        world.published_job(acme, tasks=2, title="exact too"),
    ]
    everything = {role for job in jobs for role in world.roles(job)}
    for limit in (1, 3, 5, 14):
        pages = ana.pages("/v1/board", limit=limit)
        seen = [item["role_id"] for page in pages for item in page]
        assert len(seen) == len(set(seen)) == 14
        assert set(seen) == everything
        fits = [item["fit"] for page in pages for item in page]
        assert fits == sorted(fits, reverse=True)


def test_a_page_goes_on_while_roles_are_taken(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=6)
    first = ana.get("/v1/board", limit=3)
    another = world.performer("another performer")
    another.post("/v1/claims", {"role_id": first["items"][1]["role_id"]})
    second = ana.get("/v1/board", limit=3, cursor=first["next_cursor"])
    seen = [item["role_id"] for item in first["items"] + second["items"]]
    assert sorted(seen) == world.roles(job)


def test_a_cursor_of_another_list_is_422(world: World, acme: Client, ana: Person) -> None:
    for _ in range(2):
        world.job(acme)
    cursor = acme.get("/v1/jobs", limit=1)["next_cursor"]
    refused = ana.refused("GET", "/v1/board", query={"cursor": cursor})
    assert refused == "422 invalid_request"
