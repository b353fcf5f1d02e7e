"""A client's feed: every move of its things, in an order that never changes and without a gap."""

import threading

import pytest

from marketplace.webhooks import service
from tests.world import DAY, Client, Json, Person, World


def feed(client: Client, **query: object) -> list[Json]:
    found: list[Json] = client.get("/v1/events", **query)["items"]
    return found


def test_a_clients_moves_in_order(world: World, acme: Client, ana: Person, ravi: Person) -> None:
    job = world.published_job(acme)
    world.accepted_claim(ana, job, ravi)
    events = feed(acme)
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    types = [event["type"] for event in events]
    assert types[0] == "job.draft"
    assert types.index("claim.active") < types.index("claim.submitted")
    assert types.index("submission.accepted") < types.index("role.done")
    moments = [event["at"] for event in events]
    assert moments == sorted(moments)


def test_what_a_performer_says_is_not_for_the_client(
    world: World, acme: Client, ana: Person
) -> None:
    released, expired = (
        ana.post("/v1/claims", {"role_id": role})
        for role in world.roles(world.published_job(acme, tasks=2))
    )
    ana.post(f"/v1/claims/{released['id']}/release", {"reason": "I am in hospital."})
    world.advance(3 * DAY)
    world.sweep("expiry")
    reasons = {event["subject_id"]: event["reason"] for event in feed(acme)}
    assert (reasons[released["id"]], reasons[expired["id"]]) == (None, "Its deadline passed.")
    assert ana.get(f"/v1/claims/{released['id']}")["state_reason"] == "I am in hospital."


def test_pages_go_on_where_they_ended(world: World, acme: Client) -> None:
    for _ in range(3):
        world.published_job(acme)
    everything = feed(acme)
    seen: list[Json] = []
    page = acme.get("/v1/events", limit=4)
    while page["items"]:
        seen += page["items"]
        page = acme.get("/v1/events", limit=4, cursor=page["next_cursor"])
    assert seen == everything
    world.job(acme)
    later = acme.get("/v1/events", cursor=page["next_cursor"])["items"]
    assert later[0]["type"] == "job.draft"
    assert later[0]["position"] == len(everything) + 1


def test_who_comes_late_gets_all_of_it_page_by_page(
    world: World, acme: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "NUMBERED_AT_ONCE", 5)
    for _ in range(3):
        world.published_job(acme)
    seen: list[Json] = []
    page = acme.get("/v1/events", limit=4)
    while page["items"]:
        seen += page["items"]
        page = acme.get("/v1/events", limit=4, cursor=page["next_cursor"])
    assert len(seen) > 5
    assert world.value("SELECT count(*) FROM outbox") == 0
    assert seen == feed(acme)


def test_another_client_sees_nothing_of_it(world: World, acme: Client) -> None:
    another = world.client("another client")
    job = world.published_job(acme)
    assert feed(another) == []
    world.job(another)
    (first, *_) = feed(another)
    assert first["position"] == 1
    assert first["subject_id"] != job["id"]


def test_one_that_commits_late_is_not_missed(world: World, acme: Client) -> None:
    """It was written first, but is numbered when it is seen."""
    slow, quick = world.published_job(acme), world.published_job(acme, title="quick")
    start = acme.get("/v1/events")["next_cursor"]
    with world.connection(actor="slow") as late:
        late.execute("UPDATE job SET state = 'paused' WHERE id = %s", [slow["id"]])
        acme.post(f"/v1/jobs/{quick['id']}/pause", {})
        page = acme.get("/v1/events", cursor=start)
        assert [event["subject_id"] for event in page["items"]] == [quick["id"]]
        late.commit()
    rest = acme.get("/v1/events", cursor=page["next_cursor"])["items"]
    assert [event["subject_id"] for event in rest] == [slow["id"]]
    positions = [event["position"] for event in page["items"] + rest]
    assert positions == [positions[0], positions[0] + 1]


def test_many_readers_number_each_event_once(world: World, acme: Client) -> None:
    for _ in range(5):
        world.published_job(acme)
    found: list[list[Json]] = []
    readers = [threading.Thread(target=lambda: found.append(feed(acme))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(found) == 8
    assert all(events == found[0] for events in found)


def test_a_cursor_of_another_list_is_422(acme: Client) -> None:
    assert acme.refused("GET", "/v1/events", query={"cursor": "WyJ4Il0"}) == "422 invalid_request"
