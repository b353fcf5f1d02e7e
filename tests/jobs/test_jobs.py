"""From draft to closed: what a client may do with a job, and what it costs."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.world import DAY, Client, Json, Person, World, new_job


def test_a_draft_reserves_nothing_and_nobody_sees_it(
    world: World, acme: Client, ana: Person
) -> None:
    job = world.job(acme, tasks=3)
    assert (job["state"], job["roles"]) == ("draft", {"unfunded": 3})
    assert acme.wallet_minor == 100_000
    assert ana.get("/v1/board")["items"] == []


def test_the_quote_says_what_is_reserved(world: World, acme: Client) -> None:
    job = world.job(acme, tasks=9)
    quote = acme.get(f"/v1/jobs/{job['id']}/quote")
    assert quote["worst_case_per_role_minor"] == 12_765
    assert quote["worst_case_minor"] == 9 * 12_765
    assert quote["expected_minor"] == 9 * 7_092  # 3,000 s: 61.67 and 9.25
    assert (quote["wallet_minor"], quote["roles_covered"]) == (100_000, 7)


def test_a_draft_is_quoted_at_what_it_asks_a_published_job_at_what_is_paid(
    world: World, acme: Client
) -> None:
    job = world.job(acme, tasks=9)
    path = f"/v1/jobs/{job['id']}"
    acme.post(f"{path}/publish", {"roles": 1})
    in_time = (world.now + timedelta(days=14, minutes=1)).isoformat()
    cut = {"rate_minor_per_hour": 3_700, "reason": "agreed", "effective_from": in_time}
    acme.post(f"/v1/rate-lineages/{job['lineage_id']}/rates", cut)
    before = acme.get(f"{path}/quote")
    assert (before["rate_minor_per_hour"], before["worst_case_per_role_minor"]) == (7_400, 12_765)
    world.advance(15 * DAY)
    after = acme.get(f"{path}/quote")
    assert (after["rate_minor_per_hour"], after["worst_case_per_role_minor"]) == (3_700, 6_383)
    assert (after["worst_case_minor"], after["roles_covered"]) == (8 * 6_383, 8)
    asks_more = world.job(acme)
    assert acme.get(f"/v1/jobs/{asks_more['id']}/quote")["rate_minor_per_hour"] == 7_400
    acme.post(f"{path}/publish", {})
    assert acme.wallet_minor == after["wallet_minor"] - after["worst_case_minor"]


def test_a_draft_that_changes_its_lineage_while_it_is_published_is_not(
    world: World, acme: Client
) -> None:
    job, other = world.job(acme), world.job(acme, languages=["de"])
    with world.connection() as editor, ThreadPoolExecutor(1) as crowd:
        editor.execute(
            "UPDATE job SET lineage_id = %s WHERE id = %s", (other["lineage_id"], job["id"])
        )
        path = f"/v1/jobs/{job['id']}/publish"
        published = crowd.submit(acme.refused, "POST", path, {})
        wait_for_a_lock(world)
        editor.commit()
        assert published.result() == "503 try_again"
    assert acme.post(path, {})["lineage_id"] == other["lineage_id"]


def wait_for_a_lock(world: World) -> None:
    """Until somebody in this story's database waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 10
    while not world.value(waiting):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_publishing_reserves_the_worst_case(world: World, acme: Client) -> None:
    job = world.published_job(acme, tasks=3)
    assert (job["state"], job["roles"]) == ("open", {"open": 3})
    wallet = acme.get("/v1/wallet")
    assert (wallet["balance_minor"], wallet["reserved_minor"]) == (61_705, 38_295)


def test_a_job_larger_than_the_wallet_is_refused_as_a_whole(world: World, acme: Client) -> None:
    job = world.job(acme, tasks=8)
    assert acme.refused("POST", f"/v1/jobs/{job['id']}/publish", {}) == "409 wallet_too_low"
    assert acme.wallet_minor == 100_000
    assert acme.get(f"/v1/jobs/{job['id']}")["state"] == "draft"


def test_a_part_of_a_job_may_be_published(world: World, acme: Client) -> None:
    job = world.job(acme, tasks=8)
    path = f"/v1/jobs/{job['id']}/publish"
    assert acme.post(path, {"roles": 2})["roles"] == {"open": 2, "unfunded": 6}
    assert acme.post(path, {"roles": 5})["roles"] == {"open": 7, "unfunded": 1}
    assert acme.refused("POST", path, {}) == "409 wallet_too_low"
    world.deposit(acme, 20_000)
    assert acme.post(path, {})["roles"] == {"open": 8}
    assert acme.refused("POST", path, {}) == "409 nothing_to_publish"


def test_the_fee_is_fixed_when_the_job_is_published(world: World, acme: Client) -> None:
    job = world.job(acme)
    assert job["fee_basis_points"] is None
    assert acme.post(f"/v1/jobs/{job['id']}/publish", {})["fee_basis_points"] == 1_500


def test_two_publishes_at_once_never_overdraw(world: World, acme: Client) -> None:
    jobs = [world.job(acme, tasks=4, title=f"Job {number}") for number in range(4)]
    with ThreadPoolExecutor(4) as crowd:
        answers = list(
            crowd.map(lambda job: acme.ask("POST", f"/v1/jobs/{job['id']}/publish", {}), jobs)
        )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 409, 409, 409]
    assert acme.wallet_minor == 100_000 - 4 * 12_765


def test_a_paused_job_takes_no_claims(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=2)
    role = world.roles(job)[0]
    acme.post(f"/v1/jobs/{job['id']}/pause", {"reason": "the brief changes"})
    assert ana.get("/v1/board")["items"] == []
    assert ana.refused("POST", "/v1/claims", {"role_id": role}) == "409 job_not_open"
    acme.post(f"/v1/jobs/{job['id']}/resume")
    assert len(ana.get("/v1/board")["items"]) == 2


def test_a_closing_job_waits_for_its_live_claims(
    world: World, acme: Client, ana: Person, ravi: Person
) -> None:
    job = world.published_job(acme, tasks=3)
    world.submitted_claim(ana, job, seconds=60)
    closing = acme.post(f"/v1/jobs/{job['id']}/close", {})
    assert (closing["state"], closing["roles"]) == ("closing", {"held": 1, "withdrawn": 2})
    assert acme.wallet_minor == 100_000 - 12_765
    world.judge(ravi, {"verdict": "accept", "scores": FINE})
    world.sweep("jobs")
    assert acme.get(f"/v1/jobs/{job['id']}")["state"] == "closed"
    assert acme.wallet_minor == 100_000 - 141  # 60 s: 1.23 and the fee of 0.18


FINE = dict.fromkeys(
    ("brief_followed", "emotion_conveyed", "naturalness", "listening", "listenability"), 3
)


def test_a_role_released_while_closing_is_withdrawn(
    world: World, acme: Client, ana: Person
) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    acme.post(f"/v1/jobs/{job['id']}/close", {})
    ana.post(f"/v1/claims/{claim['id']}/release", {})
    world.sweep("jobs")
    assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"withdrawn": 1}
    assert acme.get(f"/v1/jobs/{job['id']}")["state"] == "closed"
    assert acme.wallet_minor == 100_000


@pytest.mark.parametrize(
    ("before", "verb"),
    [
        ((), "pause"),
        ((), "resume"),
        ((), "close"),
        (("publish",), "cancel"),
        (("publish",), "resume"),
        (("publish", "pause"), "pause"),
        (("publish", "close"), "publish"),
        (("publish", "close"), "pause"),
        (("publish", "close"), "close"),
        (("cancel",), "publish"),
        (("cancel",), "cancel"),
    ],
)
def test_a_verb_its_state_forbids_is_409(
    world: World, acme: Client, before: tuple[str, ...], verb: str
) -> None:
    job = world.job(acme)
    for earlier in before:
        acme.post(f"/v1/jobs/{job['id']}/{earlier}", {})
    answer = acme.ask("POST", f"/v1/jobs/{job['id']}/{verb}", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "move_not_allowed")
    assert answer.json()["state"]


def test_a_draft_is_edited_by_whoever_read_it(world: World, acme: Client) -> None:
    job = world.job(acme)
    path = f"/v1/jobs/{job['id']}"
    seen = acme.ask("GET", path).headers["etag"]
    wanted = new_job(title="Better", tasks=2)
    assert acme.refused("PUT", path, wanted) == "428 version_missing"
    edited = acme.ask("PUT", path, wanted, headers={"If-Match": seen})
    assert edited.json()["roles"] == {"unfunded": 2}
    outdated = acme.refused("PUT", path, wanted, headers={"If-Match": seen})
    assert outdated == "412 version_outdated"
    acme.post(f"{path}/publish", {})
    late = {"If-Match": acme.ask("GET", path).headers["etag"]}
    assert acme.refused("PUT", path, wanted, headers=late) == "409 move_not_allowed"


def test_another_clients_job_is_404(world: World, acme: Client) -> None:
    job = world.published_job(acme)
    another = world.client("Another client")
    for method, path in (
        ("GET", ""),
        ("GET", "/quote"),
        ("GET", "/roles"),
        ("GET", "/recordings"),
        ("POST", "/publish"),
        ("POST", "/pause"),
        ("POST", "/close"),
    ):
        body: Json | None = {} if method == "POST" else None
        refused = another.refused(method, f"/v1/jobs/{job['id']}{path}", body)
        assert refused == "404 not_found", path
    assert another.get("/v1/jobs")["items"] == []


def test_lists_are_paged_without_repeats(world: World, acme: Client) -> None:
    drafts = [world.job(acme)["id"] for _ in range(7)]
    world.published_job(acme)
    pages = acme.pages("/v1/jobs", limit=3)
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [job["id"] for page in pages for job in page][1:] == drafts[::-1]
    assert [job["id"] for job in acme.get("/v1/jobs", state="draft")["items"]] == drafts[::-1]


def test_a_jobs_roles_are_listed_by_state(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=3)
    claim = world.claim(ana, job)
    held = acme.get(f"/v1/jobs/{job['id']}/roles", state="held")["items"]
    assert [role["id"] for role in held] == [claim["role_id"]]
    assert len(acme.get(f"/v1/jobs/{job['id']}/roles")["items"]) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"elicitation": "improv_dyad"},
        {"tasks": 10_001},
        {"tasks": 0},
        {"retakes_max": 3},
        {"perform_seconds_cap": 0},
        {"claim_window_seconds": 59},
        {"review_seconds": 3_599},
        {"status": "open"},
        {"fee_basis_points": 0},
        {"client_id": "somebody"},
    ],
    ids=str,
)
def test_a_job_that_cannot_be_run_is_422(world: World, wrong: Json) -> None:
    client = world.client()
    assert client.refused("POST", "/v1/jobs", new_job(**wrong)) == "422 invalid_request"


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("speakers", {"gender": "female"}),
        ("audio", {"sample_rate_hz": 96_000}),
        ("labels", {"scheme": "occ22"}),
        ("labels", {"panel_raters": 5}),
    ],
    ids=str,
)
def test_a_wish_that_nobody_keeps_is_422(world: World, part: str, wrong: Json) -> None:
    client = world.client()
    wanted = new_job()
    wanted["specification"][part] |= wrong
    assert client.refused("POST", "/v1/jobs", wanted) == "422 invalid_request"


def test_a_licence_that_allows_voice_clones_is_422(world: World) -> None:
    client = world.client()
    wanted = new_job()
    wanted["specification"]["licence"]["forbidden_uses"] = ["sublicence"]
    assert client.refused("POST", "/v1/jobs", wanted) == "422 invalid_request"
