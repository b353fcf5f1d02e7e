"""Roles taken back, members removed, devices signed out: at once, with a reason, never the last."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import psycopg
import pytest

from marketplace.accounts.models import Role
from tests.world import Client, Person, World

REASON = {"reason": "left the company"}


def take_back(caller: Person, person: Person, role: str) -> int:
    path = f"/v1/people/{person.id}/roles/{role}"
    return caller.ask("DELETE", path, query=REASON).status_code


class TestRoles:
    def test_a_role_is_gone_with_the_next_request(self, world: World, operator: Person) -> None:
        both = world.person(Role.REVIEWER, Role.FINANCE)
        assert both.get("/v1/auditions")["items"] == []
        assert take_back(operator, both, "reviewer") == 204
        assert both.refused("GET", "/v1/auditions") == "403 forbidden"
        assert both.get("/v1/me")["roles"] == ["finance"], "the rest goes on"
        (told,) = world.sql(
            "SELECT reason, detail, actor FROM audit_event WHERE action = 'role_taken_back'"
        )
        assert datetime.fromisoformat(told["detail"].pop("granted_at")) < world.now
        assert told == {
            "reason": REASON["reason"],
            "detail": {"role": "reviewer"},
            "actor": operator.id,
        }
        assert take_back(operator, both, "reviewer") == 404

    def test_who_has_nothing_left_is_signed_out(self, operator: Person, finn: Person) -> None:
        assert take_back(operator, finn, "finance") == 204
        assert finn.refused("GET", "/v1/me") == "401 unauthorized"

    def test_a_performer_keeps_theirs(self, operator: Person, ana: Person) -> None:
        assert take_back(operator, ana, "performer") == 422
        assert ana.get("/v1/me")["roles"] == ["performer"]

    def test_without_a_reason_it_is_422(self, operator: Person, finn: Person) -> None:
        path = f"/v1/people/{finn.id}/roles/finance"
        for query in ({}, {"reason": "x"}):
            assert operator.refused("DELETE", path, query=query) == "422 invalid_request"

    def test_the_last_operator_stays(self, world: World, operator: Person) -> None:
        path = f"/v1/people/{operator.id}/roles/operator"
        assert operator.refused("DELETE", path, query=REASON) == "409 last_operator"
        second = world.operator("Otto")
        assert take_back(second, operator, "operator") == 204
        assert operator.refused("GET", "/v1/me") == "401 unauthorized"

    def test_two_operators_do_not_remove_each_other(self, world: World, operator: Person) -> None:
        second = world.operator("Otto")
        for each in (operator, second):
            each.get("/v1/me")  # Else each would hold their token, to note its first use.
        with ThreadPoolExecutor(2) as crowd:
            one = crowd.submit(take_back, operator, second, "operator")
            other = crowd.submit(take_back, second, operator, "operator")
            answers = sorted([one.result(), other.result()])
        # Who comes second is told so, or is no operator any more.
        assert answers[0] == 204
        assert answers[1] in {401, 409}
        assert world.value("SELECT count(*) FROM person_role WHERE role = 'operator'") == 1


class TestMembers:
    @pytest.fixture
    def acme(self, world: World) -> Client:
        return world.client()

    @pytest.fixture
    def leaver(self, world: World, acme: Client) -> Person:
        """A second member, with nothing else to do here."""
        person = world.person(name="Lea")
        code = acme.member.post("/v1/client/invites")["code"]
        person.post("/v1/invites/accept", {"code": code})
        return person

    def test_a_member_leaves_at_once(self, acme: Client, leaver: Person) -> None:
        made = leaver.post("/v1/api-keys", {"name": "hers", "scopes": ["jobs:read"]})
        assert made["created_by"] == leaver.id
        members = acme.member.get("/v1/client/members")["items"]
        assert {member["person_id"] for member in members} == {acme.member.id, leaver.id}
        path = f"/v1/client/members/{leaver.id}"
        assert acme.member.ask("DELETE", path).status_code == 204
        assert leaver.refused("GET", "/v1/jobs") == "401 unauthorized"
        assert len(acme.member.get("/v1/client/members")["items"]) == 1
        assert acme.member.refused("DELETE", path) == "404 not_found"

    def test_who_does_something_else_here_stays_signed_in(
        self, acme: Client, leaver: Person, operator: Person
    ) -> None:
        code = operator.post("/v1/invites", {"role": "reviewer"})["code"]
        leaver.post("/v1/invites/accept", {"code": code})
        acme.member.ask("DELETE", f"/v1/client/members/{leaver.id}")
        assert leaver.get("/v1/me")["client_id"] is None
        assert leaver.refused("GET", "/v1/jobs") == "403 forbidden"

    def test_another_clients_member_is_404(self, world: World, acme: Client) -> None:
        another = world.client("Another client")
        path = f"/v1/client/members/{acme.member.id}"
        assert another.member.refused("DELETE", path) == "404 not_found"
        assert acme.member.get("/v1/me")["client_id"] == acme.id

    def test_the_last_member_stays(self, acme: Client) -> None:
        path = f"/v1/client/members/{acme.member.id}"
        assert acme.member.refused("DELETE", path) == "409 last_member"

    def test_two_members_do_not_remove_each_other(
        self, world: World, acme: Client, leaver: Person
    ) -> None:
        def remove(caller: Person, other: Person) -> int:
            return caller.ask("DELETE", f"/v1/client/members/{other.id}").status_code

        with ThreadPoolExecutor(2) as crowd:
            one = crowd.submit(remove, acme.member, leaver)
            other = crowd.submit(remove, leaver, acme.member)
            answers = sorted([one.result(), other.result()])
        assert answers[0] == 204
        assert answers[1] in {401, 409}
        assert world.value("SELECT count(*) FROM client_member") == 1


def test_an_operator_signs_somebody_out(world: World, operator: Person, ana: Person) -> None:
    path = f"/v1/people/{ana.id}/devices"
    assert operator.ask("DELETE", path, query=REASON).status_code == 204
    assert ana.refused("GET", "/v1/me") == "401 unauthorized"
    told = world.value("SELECT reason FROM audit_event WHERE action = 'signed_out'")
    assert told == REASON["reason"]


def test_an_operator_finds_people(
    world: World, operator: Person, ana: Person, finn: Person
) -> None:
    acme, both = world.client(), world.person(Role.REVIEWER, Role.PERFORMER)
    found = {each["person_id"]: each for each in operator.get("/v1/people")["items"]}
    assert found.keys() == {operator.id, ana.id, finn.id, both.id, acme.member.id}
    assert found[both.id]["roles"] == ["performer", "reviewer"]
    assert (found[ana.id]["name"], found[ana.id]["roles"]) == ("Ana", ["performer"])
    assert (found[acme.member.id]["client_id"], found[acme.member.id]["roles"]) == (acme.id, [])
    (only,) = operator.get("/v1/people", role="finance")["items"]
    assert only == found[finn.id]
    assert operator.refused("GET", "/v1/people", query={"role": "king"}) == "422 invalid_request"


@pytest.mark.parametrize(
    ("table", "guard"), [("person_role", "last_operator"), ("client_member", "last_member")]
)
def test_not_even_the_database_login_removes_everybody(
    world: World, operator: Person, table: str, guard: str
) -> None:
    world.client()
    with world.connection() as mallory:
        with pytest.raises(psycopg.IntegrityError) as refusal:
            mallory.execute(f"DELETE FROM {table}".encode())
        assert refusal.value.diag.constraint_name == guard
