"""Rate history is append-only, public, and never sinks without notice."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace.rates import service as rates
from tests.world import DAY, Client, Json, Person, World, new_job

CUT_NOTICE = timedelta(days=14)


def announce(client: Client, job: Json, rate: int, **more: object) -> Json:
    path = f"/v1/rate-lineages/{job['lineage_id']}/rates"
    announced: Json = client.post(path, {"rate_minor_per_hour": rate, "reason": "agreed", **more})
    return announced


def refusal(client: Client, job: Json, rate: int, **more: object) -> str:
    path = f"/v1/rate-lineages/{job['lineage_id']}/rates"
    return client.refused("POST", path, {"rate_minor_per_hour": rate, "reason": "agreed", **more})


def test_the_first_job_of_its_kind_sets_the_rate(world: World, acme: Client) -> None:
    job = world.job(acme)
    assert job["rate"] is None
    published = acme.post(f"/v1/jobs/{job['id']}/publish", {})
    assert published["rate"]["rate_minor_per_hour"] == 7_400
    assert published["rate"]["status"] == "in_force"


def test_a_rise_takes_effect_in_a_minute(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=2)
    rise = announce(acme, job, 8_000)
    assert rise["status"] == "announced"
    assert rise["change_percent"] == "8.11"
    before = world.claim(ana, job)
    world.advance(61)
    after = world.claim(ana, job)
    assert before["rate_minor_per_hour"] == 7_400
    assert after["rate_minor_per_hour"] == 8_000


def test_a_cut_needs_fourteen_days(world: World, acme: Client) -> None:
    job = world.published_job(acme)
    assert refusal(acme, job, 7_399) == "409 rate_cut_needs_notice"
    soon = (world.now + CUT_NOTICE - timedelta(minutes=1)).isoformat()
    assert refusal(acme, job, 7_399, effective_from=soon) == "409 rate_cut_needs_notice"
    in_time = (world.now + CUT_NOTICE + timedelta(minutes=1)).isoformat()
    cut = announce(acme, job, 7_000, effective_from=in_time)
    assert (cut["status"], cut["change_percent"]) == ("announced", "-5.41")


def test_a_claim_keeps_its_rate_when_the_cut_comes(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=2)
    claim = world.claim(ana, job)
    in_time = (world.now + CUT_NOTICE + timedelta(minutes=1)).isoformat()
    announce(acme, job, 7_000, effective_from=in_time)
    world.advance(15 * DAY)
    assert ana.get(f"/v1/claims/{claim['id']}")["rate_minor_per_hour"] == 7_400
    assert world.claim(ana, job)["rate_minor_per_hour"] == 7_000


@pytest.mark.parametrize(
    "disguise",
    [
        {"title": "A wholly different job", "brief": "Nothing like the last one."},
        {"tasks": 5},
        {"accents": ["scottish"]},
        {"tier": "phone"},
        {"prep_seconds_cap": 60, "perform_seconds_cap": 60, "retakes_max": 0},
        {"languages": ["en-us"]},
    ],
    ids=["renamed", "larger", "accent", "tier", "shorter", "spelt-otherwise"],
)
def test_a_disguised_job_is_of_the_same_lineage(world: World, acme: Client, disguise: Json) -> None:
    job = world.published_job(acme)
    lower = world.job(acme, rate_minor_per_hour=5_000, **disguise)
    assert lower["lineage_id"] == job["lineage_id"]
    path = f"/v1/jobs/{lower['id']}/publish"
    assert acme.refused("POST", path, {}) == "409 rate_cut_needs_notice"


@pytest.mark.parametrize(
    "noise",
    [
        {"languages": ["en"]},
        {"languages": ["en-US", "zu"]},
        {"languages": ["en-US", "en-GB"]},
        {"skills": []},
        {"skills": ["improv", "singing"]},
    ],
    ids=str,
)
def test_a_language_or_a_skill_more_or_less_hides_no_cut(
    world: World, acme: Client, operator: Person, noise: Json
) -> None:
    """Another lineage, but the same performers' board."""
    job = world.published_job(acme)
    other = world.job(acme, rate_minor_per_hour=5_000, **noise)
    assert other["lineage_id"] != job["lineage_id"]
    path = f"/v1/jobs/{other['id']}"
    assert acme.refused("POST", f"{path}/publish", {}) == "409 rate_cut_needs_notice"
    separated = {"reason": "Learners read two sentences; no improvisation."}
    operator.post(f"{path}/separate-lineage", separated)
    assert acme.post(f"{path}/publish", {})["rate"]["rate_minor_per_hour"] == 5_000


def test_announcing_the_first_rate_hides_no_cut_either(
    world: World, acme: Client, operator: Person
) -> None:
    world.published_job(acme)
    lower = world.job(acme, rate_minor_per_hour=5_000, skills=[])
    assert refusal(acme, lower, 5_000) == "409 rate_cut_needs_notice"
    assert acme.get(f"/v1/rate-lineages/{lower['lineage_id']}/rates")["items"] == []
    path = f"/v1/jobs/{lower['id']}"
    separated = operator.post(f"{path}/separate-lineage", {"reason": "single words"})
    assert announce(acme, separated, 5_000)["status"] == "in_force"
    assert acme.post(f"{path}/publish", {})["rate"]["rate_minor_per_hour"] == 5_000


def test_an_announced_rise_counts_for_a_new_kind_of_job(world: World, acme: Client) -> None:
    job = world.published_job(acme)
    announce(acme, job, 9_000, effective_from=(world.now + timedelta(days=10)).isoformat())
    for asked, answer in ((7_400, 409), (8_999, 409), (9_000, 200)):
        other = world.job(acme, rate_minor_per_hour=asked, skills=[])
        published = acme.ask("POST", f"/v1/jobs/{other['id']}/publish", {})
        assert published.status_code == answer, asked
    assert published.json()["rate"]["rate_minor_per_hour"] == 9_000


class TestAKindThatWasCheapBefore:
    """It goes on as it is; but no more work is opened in it while the same performers are paid more
    for another kind.
    """

    @pytest.fixture
    def cheap(self, world: World, acme: Client) -> Json:
        """One of its three roles is open; and then comes the dear kind."""
        job = world.job(acme, tasks=3, rate_minor_per_hour=5_000, skills=[])
        published: Json = acme.post(f"/v1/jobs/{job['id']}/publish", {"roles": 1})
        return published

    @pytest.fixture
    def dear(self, world: World, acme: Client, cheap: Json) -> Json:
        return world.published_job(acme)

    def another_cheap_one(self, world: World, acme: Client, **wanted: Any) -> str:
        """The path of its draft."""
        job = world.job(acme, skills=[], **{"rate_minor_per_hour": 5_000, **wanted})
        return f"/v1/jobs/{job['id']}"

    def refused(self, acme: Client, path: str) -> bool:
        answer = acme.ask("POST", f"{path}/publish", {})
        if answer.is_success:
            return False
        assert (answer.status_code, answer.json()["code"]) == (409, "rate_cut_needs_notice")
        assert answer.json()["rate_minor_per_hour"] == 7_400
        return True

    def test_a_new_job_does_not_go_there(
        self, world: World, acme: Client, ana: Person, cheap: Json, dear: Json
    ) -> None:
        assert self.refused(acme, self.another_cheap_one(world, acme))
        acme.post(f"/v1/jobs/{dear['id']}/close", {})
        assert self.refused(acme, self.another_cheap_one(world, acme)), "closing is no notice"
        assert world.claim(ana, cheap)["rate_minor_per_hour"] == 5_000

    def test_nor_do_more_roles_of_an_old_one(self, acme: Client, cheap: Json, dear: Json) -> None:
        assert self.refused(acme, f"/v1/jobs/{cheap['id']}")

    def test_unless_it_pays_as_much(self, world: World, acme: Client, dear: Json) -> None:
        path = self.another_cheap_one(world, acme, rate_minor_per_hour=7_400)
        acme.post(f"{path}/publish", {})
        world.advance(61)
        assert acme.get(path)["rate"]["rate_minor_per_hour"] == 7_400

    def test_but_not_if_it_will_some_day(
        self, world: World, acme: Client, cheap: Json, dear: Json
    ) -> None:
        some_day = (world.now + timedelta(days=700)).isoformat()
        announce(acme, cheap, 7_400, effective_from=some_day)
        assert self.refused(acme, self.another_cheap_one(world, acme))

    def test_or_an_operator_separates_it(
        self, world: World, acme: Client, operator: Person, dear: Json
    ) -> None:
        path = self.another_cheap_one(world, acme)
        operator.post(f"{path}/separate-lineage", {"reason": "single words"})
        assert not self.refused(acme, path)

    def test_or_a_cut_of_the_dear_one_has_had_its_notice(
        self, world: World, acme: Client, cheap: Json, dear: Json
    ) -> None:
        in_time = (world.now + CUT_NOTICE + timedelta(minutes=1)).isoformat()
        announce(acme, dear, 5_000, effective_from=in_time)
        world.advance(13 * DAY)
        assert self.refused(acme, self.another_cheap_one(world, acme))
        world.advance(2 * DAY)
        assert not self.refused(acme, self.another_cheap_one(world, acme))
        assert not self.refused(acme, f"/v1/jobs/{cheap['id']}")

    def test_or_both_rise_together(
        self, world: World, acme: Client, cheap: Json, dear: Json
    ) -> None:
        assert not self.refused(
            acme, self.another_cheap_one(world, acme, rate_minor_per_hour=7_400)
        )
        next_week = (world.now + timedelta(days=7)).isoformat()
        for job in (cheap, dear):
            announce(acme, job, 8_000, effective_from=next_week)
        path = self.another_cheap_one(world, acme, rate_minor_per_hour=7_400)
        world.advance(61)
        assert not self.refused(acme, path)


PUBLISH = st.tuples(st.just("publish"), st.integers(0, 1), st.integers(7_000, 7_001), st.none())
ANNOUNCE = st.tuples(
    st.just("announce"),
    st.integers(0, 1),
    st.integers(7_000, 7_001),
    # Takes effect so many days and two minutes after the announcement.
    st.sampled_from([None, 0, 3, 14, 20]),
)
WAIT = st.tuples(st.just("wait"), st.sampled_from([1, 8]), st.just(0), st.none())
EVENTS = st.lists(st.one_of(PUBLISH, PUBLISH, ANNOUNCE, WAIT), min_size=5, max_size=10)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=EVENTS)
def test_whatever_a_client_does_new_work_pays_less_only_after_notice(
    world: World, events: list[tuple[str, int, int, int | None]]
) -> None:
    """Whichever of two kinds that the same performers see it opens work in."""
    acme = world.client(deposit_minor=10_000)
    kinds = [
        new_job(skills=skills, prep_seconds_cap=0, perform_seconds_cap=1, retakes_max=0)
        for skills in ((), ("improv",))
    ]
    lineages = [acme.post("/v1/jobs", kind)["lineage_id"] for kind in kinds]
    opened: list[tuple[str, datetime, int]] = []
    for event, which, rate, days in events:
        if event == "wait":
            world.advance(which * DAY)
            continue
        path = f"/v1/rate-lineages/{lineages[which]}"
        if event == "announce":
            wanted: Json = {"rate_minor_per_hour": rate, "reason": "agreed"}
            if days is not None:
                effective_from = world.now + timedelta(days=days, minutes=2)
                wanted["effective_from"] = effective_from.isoformat()
            acme.ask("POST", f"{path}/rates", wanted)
            continue
        job = acme.post("/v1/jobs", kinds[which] | {"rate_minor_per_hour": rate})
        if acme.ask("POST", f"/v1/jobs/{job['id']}/publish", {}).is_success:
            soon = world.now + timedelta(minutes=1)
            paid = acme.get(f"{path}/rate", at=soon.isoformat())
            opened.append((lineages[which], soon, paid["rate_minor_per_hour"]))
    for (lineage, earlier, more), (_, later, less) in combinations(opened, 2):
        if less < more:
            cut = world.value(
                "SELECT count(*) FROM rate WHERE lineage_id = %s AND rate_minor_per_hour <= %s"
                " AND effective_from > %s AND effective_from <= %s"
                " AND effective_from - announced_at >= interval '336 hours'",
                *(lineage, less, earlier, later),
            )
            assert cut, opened


def test_closing_and_cloning_the_job_does_not_cut(world: World, acme: Client) -> None:
    job = world.published_job(acme)
    acme.post(f"/v1/jobs/{job['id']}/close", {})
    clone = world.job(acme, rate_minor_per_hour=5_000)
    path = f"/v1/jobs/{clone['id']}/publish"
    assert acme.refused("POST", path, {}) == "409 rate_cut_needs_notice"


def test_announcing_a_rise_first_does_not_shorten_the_notice(world: World, acme: Client) -> None:
    """A rise to come is a promise, too: going back from it is a cut."""
    job = world.published_job(acme)
    tomorrow = (world.now + timedelta(days=1)).isoformat()
    announce(acme, job, 9_000, effective_from=tomorrow)
    later = (world.now + timedelta(days=2)).isoformat()
    assert refusal(acme, job, 7_400, effective_from=later) == "409 rate_cut_needs_notice"
    sooner = (world.now + timedelta(hours=1)).isoformat()
    assert announce(acme, job, 7_500, effective_from=sooner)["status"] == "announced"


def test_a_rise_before_an_announced_rate_does_not_make_a_cut_of_it(
    world: World, acme: Client
) -> None:
    job = world.published_job(acme)
    announce(acme, job, 7_401, effective_from=(world.now + timedelta(seconds=125)).isoformat())
    assert refusal(acme, job, 30_000) == "409 rate_cut_needs_notice"
    cut = (world.now + CUT_NOTICE + timedelta(minutes=1)).isoformat()
    announce(acme, job, 7_000, effective_from=cut)
    assert announce(acme, job, 7_401)["status"] == "announced", "that cut has its notice"


ANNOUNCEMENTS = st.lists(
    st.tuples(
        st.integers(7_000, 7_009),
        # Takes effect so many days and minutes after the announcement …
        st.one_of(st.none(), st.tuples(st.integers(0, 30), st.integers(2, 10))),
        # … which is so many days after the last one.
        st.sampled_from([0, 0, 1, 10]),
    ),
    max_size=12,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(announcements=ANNOUNCEMENTS)
def test_whatever_is_announced_no_rate_sinks_without_notice(
    world: World, announcements: list[tuple[int, tuple[int, int] | None, int]]
) -> None:
    lineage = world.transact(
        lambda session: rates.lineage_for(
            session,
            client_id=None,
            currency="USD",
            elicitation=str(uuid.uuid4()),
            languages=(),
            role_profile="property",
        )
    )
    with world.connection(autocommit=True) as connection:
        for rate, effect, waited in [(7_005, None, 0), *announcements]:
            world.advance(waited * DAY)
            in_time = timedelta(days=effect[0], minutes=effect[1]) if effect else None
            with suppress(psycopg.errors.CheckViolation):
                connection.execute(
                    "INSERT INTO rate (id, lineage_id, currency, rate_minor_per_hour, reason,"
                    " announced_by, effective_from) VALUES (uuidv7(), %s, 'USD', %s, 'agreed', %s,"
                    " marketplace_now() + %s)",
                    [lineage.id, rate, uuid.uuid4(), in_time],
                )
    rows = world.sql(
        "SELECT DISTINCT ON (effective_from) rate_minor_per_hour, announced_at, effective_from"
        " FROM rate WHERE lineage_id = %s ORDER BY effective_from, number DESC",
        lineage.id,
    )
    for before, after in pairwise(rows):
        if after["rate_minor_per_hour"] < before["rate_minor_per_hour"]:
            assert after["effective_from"] - after["announced_at"] >= CUT_NOTICE


def test_nothing_is_backdated(world: World, acme: Client) -> None:
    job = world.published_job(acme)
    for ago in (timedelta(days=1), timedelta(seconds=0)):
        moment = (world.now - ago).isoformat()
        assert refusal(acme, job, 9_000, effective_from=moment) == "409 rate_backdated"


def test_a_rate_is_announced_two_years_ahead_at_most(world: World, acme: Client) -> None:
    job = world.published_job(acme)
    for ahead in (timedelta(days=731), timedelta(days=365 * 7_000)):
        moment = (world.now + ahead).isoformat()
        for rate in (9_000, 7_000):
            assert refusal(acme, job, rate, effective_from=moment) == "422 invalid_request"
    in_time = (world.now + timedelta(days=730)).isoformat()
    assert announce(acme, job, 9_000, effective_from=in_time)["status"] == "announced"


def test_another_kind_of_job_has_a_lineage_of_its_own(world: World, acme: Client) -> None:
    job = world.published_job(acme)
    others = [
        world.job(acme, languages=["de"]),
        world.job(acme, skills=["singing"]),
        world.job(acme, elicitation="read"),
        world.job(world.client("Another client")),
    ]
    assert len({other["lineage_id"] for other in others} | {job["lineage_id"]}) == 5


def test_a_draft_that_asks_more_raises_the_rate(world: World, acme: Client) -> None:
    world.published_job(acme)
    richer = world.published_job(acme, rate_minor_per_hour=8_000)
    assert richer["rate"]["rate_minor_per_hour"] == 7_400
    world.advance(61)
    assert acme.get(f"/v1/jobs/{richer['id']}")["rate"]["rate_minor_per_hour"] == 8_000


def test_a_rise_reserves_its_difference_for_every_open_role(world: World, acme: Client) -> None:
    job = world.published_job(acme, tasks=3)
    assert acme.wallet_minor == 61_705
    announce(acme, job, 8_000)
    # 5,400 s at 80.00 are 120.00, with the fee 138.00: 10.35 more for each role.
    assert acme.wallet_minor == 61_705 - 3 * 1_035


def test_a_rise_the_wallet_cannot_cover_is_refused_as_a_whole(world: World, acme: Client) -> None:
    job = world.published_job(acme, tasks=7)
    before = acme.wallet_minor
    assert refusal(acme, job, 20_000) == "409 wallet_too_low"
    assert acme.wallet_minor == before
    history = acme.get(f"/v1/rate-lineages/{job['lineage_id']}/rates")["items"]
    assert [rate["rate_minor_per_hour"] for rate in history] == [7_400]


def test_roles_published_later_reserve_the_rise_ahead(world: World, acme: Client) -> None:
    job = world.job(acme, tasks=2)
    acme.post(f"/v1/jobs/{job['id']}/publish", {"roles": 1})
    tomorrow = (world.now + timedelta(days=1)).isoformat()
    announce(acme, job, 8_000, effective_from=tomorrow)
    acme.post(f"/v1/jobs/{job['id']}/publish", {})
    assert acme.wallet_minor == 100_000 - 2 * 13_800


def test_the_history_says_what_was_known_when(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme)
    world.advance(DAY)
    before = world.now.isoformat()
    world.advance(DAY)
    announce(acme, job, 8_000)
    world.advance(DAY)
    path = f"/v1/rate-lineages/{job['lineage_id']}"
    now = ana.get(f"{path}/rates")["items"]
    assert [(rate["rate_minor_per_hour"], rate["status"]) for rate in now] == [
        (7_400, "superseded"),
        (8_000, "in_force"),
    ]
    then = ana.get(f"{path}/rates", as_of=before)["items"]
    assert [(rate["rate_minor_per_hour"], rate["status"]) for rate in then] == [(7_400, "in_force")]
    assert ana.get(f"{path}/rate")["rate_minor_per_hour"] == 8_000
    assert ana.get(f"{path}/rate", at=before)["rate_minor_per_hour"] == 7_400
    long_ago = (world.now - timedelta(days=99)).isoformat()
    assert ana.refused("GET", f"{path}/rate", query={"at": long_ago}) == "404 not_found"


def test_a_clients_lineage_is_not_anothers(world: World, acme: Client, ravi: Person) -> None:
    job = world.published_job(acme)
    another = world.client("Another client")
    path = f"/v1/rate-lineages/{job['lineage_id']}"
    assert another.refused("GET", path) == "404 not_found"
    assert refusal(another, job, 9_000) == "404 not_found"
    assert ravi.get(path)["client_id"] == acme.id


def test_the_minimum_rate_is_refused_below(world: World, acme: Client, operator: Person) -> None:
    minimum = {"currency": "USD", "rate_minor_per_hour": 7_500, "reason": "the law"}
    operator.post("/v1/minimum-rates", minimum)
    assert acme.get("/v1/minimum-rates/USD")["rate_minor_per_hour"] == 7_500
    assert acme.refused("GET", "/v1/minimum-rates/EUR") == "404 not_found"
    for currency in ("usd", "XXX", "%00"):
        refused = acme.refused("GET", f"/v1/minimum-rates/{currency}")
        assert refused == "422 invalid_request"
    job = world.job(acme)
    path = f"/v1/jobs/{job['id']}/publish"
    assert acme.refused("POST", path, {}) == "409 rate_below_minimum"
    assert world.published_job(acme, rate_minor_per_hour=7_500)["state"] == "open"


def test_a_raised_minimum_stops_new_roles_of_old_rates(
    world: World, acme: Client, operator: Person
) -> None:
    job = world.job(acme, tasks=2)
    acme.post(f"/v1/jobs/{job['id']}/publish", {"roles": 1})
    operator.post(
        "/v1/minimum-rates", {"currency": "USD", "rate_minor_per_hour": 9_000, "reason": "the law"}
    )
    refused = acme.refused("POST", f"/v1/jobs/{job['id']}/publish", {})
    assert refused == "409 rate_below_minimum"


def test_a_separated_lineage_needs_an_operators_reason(
    world: World, acme: Client, ana: Person, operator: Person
) -> None:
    world.published_job(acme)
    easier = world.job(acme, rate_minor_per_hour=5_000)
    path = f"/v1/jobs/{easier['id']}/separate-lineage"
    assert acme.refused("POST", path, {"reason": "because we want it"}) == "403 forbidden"
    assert operator.refused("POST", path, {}) == "422 invalid_request"
    operator.post(path, {"reason": "single words, no improvisation"})
    published = acme.post(f"/v1/jobs/{easier['id']}/publish", {})
    assert published["rate"]["rate_minor_per_hour"] == 5_000
    lineage = ana.get(f"/v1/rate-lineages/{published['lineage_id']}")
    assert lineage["separation_reason"] == "single words, no improvisation"
    again = operator.refused("POST", path, {"reason": "once more"})
    assert again == "409 move_not_allowed"


def test_a_draft_that_stays_of_its_kind_keeps_its_separation(
    world: World, acme: Client, operator: Person
) -> None:
    world.published_job(acme)
    path = f"/v1/jobs/{world.job(acme)['id']}"
    separated = operator.post(f"{path}/separate-lineage", {"reason": "single words"})

    def edited(version: int, wanted: Json) -> Json:
        body = new_job(rate_minor_per_hour=5_000, **wanted)
        answer = acme.ask("PUT", path, body, headers={"If-Match": f'"{version}"'})
        job: Json = answer.json()
        return job

    still_its_kind: list[Json] = [{}, {"title": "Words"}, {"accents": ["texas"]}]
    for version, wanted in enumerate(still_its_kind, 2):
        assert edited(version, wanted)["lineage_id"] == separated["lineage_id"]
    assert edited(5, {"skills": ["singing"]})["lineage_id"] != separated["lineage_id"]
    published = acme.refused("POST", f"{path}/publish", {})
    assert published == "409 rate_cut_needs_notice", "of another kind the separation says nothing"


def test_two_separations_of_a_kind_at_once(world: World, acme: Client, operator: Person) -> None:
    drafts = [world.job(acme) for _ in range(4)]
    with ThreadPoolExecutor(len(drafts)) as crowd:
        separated = list(
            crowd.map(
                lambda job: operator.post(
                    f"/v1/jobs/{job['id']}/separate-lineage", {"reason": "single words"}
                ),
                drafts,
            )
        )
    assert len({job["lineage_id"] for job in separated}) == len(drafts)


def test_an_edited_draft_changes_its_lineage(world: World, acme: Client) -> None:
    job = world.job(acme)
    wanted = new_job(languages=["de"])
    path = f"/v1/jobs/{job['id']}"
    edited = acme.ask("PUT", path, wanted, headers={"If-Match": '"1"'}).json()
    assert edited["lineage_id"] != job["lineage_id"]


def test_an_unknown_lineage_is_404(acme: Client) -> None:
    assert acme.refused("GET", f"/v1/rate-lineages/{uuid.uuid4()}/rates") == "404 not_found"
