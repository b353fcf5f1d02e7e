"""What a client gets, and that a withdrawn consent ends it at once."""

import json
import os
import time
import uuid
from datetime import datetime, timedelta

import httpx
import pytest

from marketplace.recordings.routes import RECHECK_SECONDS
from tests.world import ACCEPT, DAY, TAKE, Client, Json, Person, World, new_job, upload

BYTES = TAKE.read_bytes()
MINUTE = timedelta(minutes=1)


@pytest.fixture
def job(world: World, acme: Client) -> Json:
    return world.published_job(acme, tasks=2)


@pytest.fixture
def delivered(world: World, acme: Client, job: Json, ana: Person, ravi: Person) -> Json:
    """Ana's accepted take, as Acme sees it."""
    claim = world.claim(ana, job)
    world.work(ana, claim, "perform", 60)
    world.hand_in(ana, claim, world.take(ana, claim, content=BYTES))
    world.judge(ravi, ACCEPT)
    (take,) = acme.get(f"/v1/jobs/{job['id']}/recordings")["items"]
    found: Json = take
    return found


def link_to(client: Client, take: Json) -> str:
    url: str = client.post(f"/v1/recordings/{take['id']}/links")["url"]
    return url


def follow(world: World, url: str) -> httpx.Response:
    return world.anybody.ask("GET", url.removeprefix(world.url))


def test_a_take_comes_with_its_labels_and_consent(
    world: World, job: Json, delivered: Json, ana: Person
) -> None:
    (consent,) = ana.get("/v1/consents")["items"]
    assert delivered["consent"]["id"] == consent["id"]
    assert delivered["consent"]["withdrawn_at"] is None
    assert delivered["speaker_id"] == ana.id
    assert delivered["target"]["emotion"] == "sadness"
    assert delivered["self_labels"]["emotion"] == "sadness"
    assert delivered["job_id"] == job["id"]


def test_the_link_gives_the_very_bytes(world: World, acme: Client, delivered: Json) -> None:
    answer = follow(world, link_to(acme, delivered))
    assert answer.content == BYTES
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_an_expired_link_is_410(world: World, acme: Client, delivered: Json) -> None:
    url = link_to(acme, delivered)
    world.advance(15 * 60 + 1)
    answer = follow(world, url)
    assert (answer.status_code, answer.json()["code"]) == (410, "link_gone")


def test_a_made_up_link_is_404(world: World) -> None:
    for token in ("x", "mkt_dl_" + "x" * 40):
        assert world.anybody.refused("GET", f"/v1/downloads/{token}") == "404 not_found"


def test_only_the_links_hash_is_kept(world: World, acme: Client, delivered: Json) -> None:
    secret = link_to(acme, delivered).rpartition("/")[2]
    (row,) = world.sql("SELECT * FROM download_link")
    assert secret not in {str(value) for value in row.values()}


def test_a_withdrawn_consent_ends_every_link_at_once(
    world: World, acme: Client, delivered: Json, ana: Person
) -> None:
    url = link_to(acme, delivered)
    path = f"/v1/consents/{delivered['consent']['id']}/withdraw"
    withdrawn = ana.post(path, {"reason": "it is too personal"})
    assert withdrawn["withdrawn_at"]
    gone = follow(world, url)
    assert (gone.status_code, gone.json()["code"]) == (410, "consent_withdrawn")
    links = f"/v1/recordings/{delivered['id']}/links"
    assert acme.refused("POST", links) == "409 consent_withdrawn"
    (listed,) = acme.get(f"/v1/jobs/{delivered['job_id']}/recordings")["items"]
    assert listed["consent"]["withdrawn_at"] == withdrawn["withdrawn_at"]
    again = ana.post(path, {})
    assert again["withdrawn_at"] == withdrawn["withdrawn_at"]


def test_the_end_of_the_licences_term_ends_every_link(
    world: World, acme: Client, ana: Person, ravi: Person
) -> None:
    wanted = new_job(skills=())
    wanted["specification"]["licence"]["term_months"] = 1
    job = acme.post("/v1/jobs", wanted)
    acme.post(f"/v1/jobs/{job['id']}/publish", {})
    world.accepted_claim(ana, job, ravi)
    (take,) = acme.get(f"/v1/jobs/{job['id']}/recordings")["items"]
    world.advance_to(datetime.fromisoformat(take["consent"]["term_ends_at"]) - MINUTE)
    url = link_to(acme, take)
    world.advance(120)
    gone = follow(world, url)
    assert (gone.status_code, gone.json()["code"]) == (410, "consent_ended")
    links = f"/v1/recordings/{take['id']}/links"
    assert acme.refused("POST", links) == "410 consent_ended"


def test_a_withdrawn_consent_is_told_to_its_client_once(
    world: World, acme: Client, delivered: Json, ana: Person
) -> None:
    another = world.client("another client")
    start = acme.get("/v1/events")["next_cursor"]
    consent = delivered["consent"]["id"]
    for reason in ("it is too personal", "I mean it"):
        ana.post(f"/v1/consents/{consent}/withdraw", {"reason": reason})
    (event,) = acme.get("/v1/events", cursor=start)["items"]
    assert (event["type"], event["subject_id"]) == ("consent_grant.withdrawn", consent)
    assert (event["from_state"], event["to_state"]) == ("signed", "withdrawn")
    assert event["reason"] is None
    assert another.get("/v1/events")["items"] == []
    actor = world.value("SELECT actor FROM audit_event WHERE action = 'withdrawn'")
    assert actor == ana.id


@pytest.fixture
def long_take(world: World, acme: Client, job: Json, ana: Person, ravi: Person) -> Json:
    """Accepted, and larger than what is on its way through sockets at any moment."""
    claim = world.claim(ana, job)
    world.work(ana, claim, "perform", 60)
    world.hand_in(ana, claim, world.take(ana, claim, content=os.urandom(48 << 20)))
    world.judge(ravi, ACCEPT)
    (take,) = acme.get(f"/v1/jobs/{job['id']}/recordings")["items"]
    found: Json = take
    return found


def test_a_download_under_way_is_cut_off_by_a_withdrawal(
    world: World, acme: Client, long_take: Json, ana: Person
) -> None:
    with world.http.stream("GET", link_to(acme, long_take)) as download:
        pieces = download.iter_raw(1 << 16)
        next(pieces)
        ana.post(f"/v1/consents/{long_take['consent']['id']}/withdraw", {})
        time.sleep(RECHECK_SECONDS)
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
    assert download.num_bytes_downloaded < long_take["size_bytes"] / 2


def test_a_slow_download_arrives_whole_while_the_consent_stands(
    world: World, acme: Client, long_take: Json
) -> None:
    with world.http.stream("GET", link_to(acme, long_take)) as download:
        pieces = download.iter_raw(1 << 16)
        received = len(next(pieces))
        time.sleep(RECHECK_SECONDS)
        received += sum(len(piece) for piece in pieces)
    assert received == long_take["size_bytes"]


def test_a_withdrawn_consent_does_not_unpay(world: World, delivered: Json, ana: Person) -> None:
    ana.post(f"/v1/consents/{delivered['consent']['id']}/withdraw", {})
    assert world.ledger("performer_payable", ana.id) == -123


def test_anothers_consent_is_404(world: World, delivered: Json) -> None:
    stranger = world.performer("another performer")
    path = f"/v1/consents/{delivered['consent']['id']}/withdraw"
    assert stranger.refused("POST", path, {}) == "404 not_found"
    assert stranger.get("/v1/consents")["items"] == []


def test_another_clients_take_is_404(world: World, delivered: Json) -> None:
    another = world.client("another client")
    path = f"/v1/recordings/{delivered['id']}/links"
    assert another.refused("POST", path) == "404 not_found"
    listed = another.refused("GET", f"/v1/jobs/{delivered['job_id']}/recordings")
    assert listed == "404 not_found"


def test_only_accepted_takes_are_delivered(
    world: World, acme: Client, job: Json, ana: Person, ravi: Person
) -> None:
    world.submitted_claim(ana, job)
    assert acme.get(f"/v1/jobs/{job['id']}/recordings")["items"] == []
    take = world.value("SELECT recording_id FROM submission_recording")
    assert acme.refused("POST", f"/v1/recordings/{take}/links") == "404 not_found"


def test_a_take_without_bytes_is_not_delivered(
    world: World, acme: Client, job: Json, ana: Person, ravi: Person
) -> None:
    claim = world.claim(ana, job)
    world.work(ana, claim, "perform", 60)
    takes = [world.take(ana, claim, content=BYTES) for _ in range(2)]
    lost = world.take(ana, claim, found="unreadable")
    world.hand_in(ana, claim, *takes)
    submission = world.value("SELECT id FROM submission")
    world.sql(
        "INSERT INTO submission_recording (submission_id, recording_id) VALUES (%s, %s)",
        submission,
        lost,
    )
    world.advance(3 * DAY + 1)
    world.sweep("accept")
    listed = acme.get(f"/v1/jobs/{job['id']}/recordings")["items"]
    assert {take["id"] for take in listed} == set(takes)
    assert acme.refused("POST", f"/v1/recordings/{lost}/links") == "404 not_found"


def test_a_real_take_is_checked_heard_and_delivered(
    world: World, acme: Client, job: Json, ana: Person, ravi: Person
) -> None:
    claim = world.claim(ana, job)
    world.work(ana, claim, "perform", 60)
    recording = upload(ana, f"/v1/claims/{claim['id']}/recordings", BYTES)
    assert recording["state"] == "checking"
    again = ana.refused("PUT", recording["upload_path"], content=BYTES)
    assert again == "409 upload_already_done"
    world.sweep("recordings")
    checked = ana.get(f"/v1/recordings/{recording['id']}")
    assert checked["state"] == "passed"
    assert checked["report"]["gates_version"]
    world.hand_in(ana, claim, recording["id"])
    review = ravi.post("/v1/reviews/next")
    heard = ravi.ask("GET", f"/v1/reviews/{review['id']}/recordings/{recording['id']}/content")
    assert heard.content == BYTES
    assert heard.headers["content-type"] == "audio/flac"
    ravi.post(f"/v1/reviews/{review['id']}/verdict", ACCEPT)
    (take,) = acme.get(f"/v1/jobs/{job['id']}/recordings")["items"]
    assert follow(world, link_to(acme, take)).content == BYTES


@pytest.mark.parametrize(
    "sent",
    [b"", BYTES[:-1], BYTES + b"x", BYTES[:-1] + b"x"],
    ids=["none", "short", "long", "other"],
)
def test_other_bytes_than_declared_are_not_kept(
    world: World, job: Json, ana: Person, sent: bytes
) -> None:
    import hashlib

    claim = world.claim(ana, job)
    declared = {"size_bytes": len(BYTES), "sha256": hashlib.sha256(BYTES).hexdigest()}
    recording = ana.post(f"/v1/claims/{claim['id']}/recordings", declared)
    refused = ana.refused("PUT", recording["upload_path"], content=sent)
    assert refused in {"400 upload_mismatch", "413 upload_too_large"}
    stored = ana.ask("PUT", recording["upload_path"], content=BYTES)
    assert stored.json()["state"] == "checking"


def test_what_is_not_audio_is_unreadable(world: World, job: Json, ana: Person) -> None:
    claim = world.claim(ana, job)
    recording = upload(
        ana, f"/v1/claims/{claim['id']}/recordings", b"<script>alert(1)</script>" * 99
    )
    world.sweep("recordings")
    checked = ana.get(f"/v1/recordings/{recording['id']}")
    assert checked["state"] == "unreadable"
    assert checked["state_reason"]


def test_an_upload_that_never_came_is_given_up(world: World, job: Json, ana: Person) -> None:
    claim = world.claim(ana, job)
    declared = {"size_bytes": 7, "sha256": "ab" * 32}
    recording = ana.post(f"/v1/claims/{claim['id']}/recordings", declared)
    world.advance(86_401)
    world.sweep("recordings")
    assert ana.get(f"/v1/recordings/{recording['id']}")["state"] == "unreadable"


def test_an_unknown_recording_is_404(ana: Person, acme: Client) -> None:
    assert ana.refused("GET", f"/v1/recordings/{uuid.uuid4()}") == "404 not_found"
    assert acme.refused("POST", f"/v1/recordings/{uuid.uuid4()}/links") == "404 not_found"


def test_progress_counts_accepted_minutes_by_what_was_wanted(
    world: World, acme: Client, ana: Person, ravi: Person
) -> None:
    wanted = [
        {"emotion": "sadness", "accepted_minutes": 2},
        {"emotion": "sadness", "intensity": "high", "accepted_minutes": 1},
        {"emotion": "anger", "accepted_minutes": 1},
    ]
    job = world.published_job(acme, tasks=2, labels={"wanted": wanted})
    nothing = acme.get(f"/v1/jobs/{job['id']}/progress")
    assert (nothing["accepted_takes"], nothing["accepted_seconds"]) == (0, 0)
    world.accepted_claim(ana, job, ravi)
    report = {"measurement": {"duration_seconds": 61.9}}
    world.sql("UPDATE recording SET report = %s", json.dumps(report))
    told = acme.get(f"/v1/jobs/{job['id']}/progress")
    assert (told["accepted_takes"], told["accepted_seconds"]) == (1, 61)
    assert [(each["wanted_seconds"], each["accepted_seconds"]) for each in told["wanted"]] == [
        (120, 61),
        (60, 0),
        (60, 0),
    ]
    (consent,) = ana.get("/v1/consents")["items"]
    ana.post(f"/v1/consents/{consent['id']}/withdraw", {"reason": "I changed my mind."})
    assert acme.get(f"/v1/jobs/{job['id']}/progress")["accepted_takes"] == 0


def test_progress_of_a_strangers_job_is_404(world: World, job: Json) -> None:
    stranger = world.client("Borealis")
    assert stranger.refused("GET", f"/v1/jobs/{job['id']}/progress") == "404 not_found"
