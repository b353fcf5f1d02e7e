"""Joining by invite, signing in, devices, keys: who may be whom."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import pytest

from marketplace.accounts import passwords, service
from tests.world import DAY, HOUR, Caller, Person, World, new_job

SENTENCE = "a long sentence of my own"


def join(invite: str, **changed: object) -> dict[str, object]:
    wanted = {
        "code": invite,
        "email": f"{uuid.uuid4()}@example.test",
        "name": "Ana",
        "password": SENTENCE,
        "device": "Ana's phone",
    }
    return wanted | changed


def sign_in(email: object, password: str = SENTENCE) -> dict[str, object]:
    return {"email": email, "password": password, "device": "laptop"}


@pytest.fixture
def email(world: World, operator: Person) -> str:
    """Of somebody who has joined."""
    code = operator.post("/v1/invites", {"role": "performer"})["code"]
    world.anybody.post("/v1/join", join(code, email="ana@example.test"))
    return "ana@example.test"


class TestJoining:
    def test_an_invited_person_joins_and_is_signed_in(self, world: World, operator: Person) -> None:
        code = operator.post("/v1/invites", {"role": "performer"})["code"]
        joined = world.anybody.post("/v1/join", join(code))
        ana = Caller(world, joined["token"])
        assert ana.get("/v1/me") == {
            "person_id": joined["person_id"],
            "client_id": None,
            "roles": ["performer"],
            "scopes": [],
        }

    def test_a_code_serves_once(self, world: World, operator: Person) -> None:
        code = operator.post("/v1/invites", {"role": "performer"})["code"]
        world.anybody.post("/v1/join", join(code))
        refused = world.anybody.refused("POST", "/v1/join", join(code))
        assert refused == "400 code_not_valid"

    def test_a_code_expires(self, world: World, operator: Person) -> None:
        code = operator.post("/v1/invites", {"role": "performer"})["code"]
        world.advance(15 * DAY)
        refused = world.anybody.refused("POST", "/v1/join", join(code))
        assert refused == "400 code_not_valid"

    def test_an_address_joins_once_however_it_is_written(
        self, world: World, operator: Person
    ) -> None:
        codes = [operator.post("/v1/invites", {"role": "performer"})["code"] for _ in range(2)]
        world.anybody.post("/v1/join", join(codes[0], email="ana@example.test"))
        second = join(codes[1], email="ANA@example.test")
        assert world.anybody.refused("POST", "/v1/join", second) == "409 email_taken"
        assert world.anybody.post("/v1/join", join(codes[1]))["token"]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"password": "short"},
            {"password": "x" * 201},
            {"email": "nobody"},
            {"email": "a@b@c"},
            {"email": "a b@example.test"},
            {"name": ""},
            {"name": "a\x00"},
            {"role": "operator"},
            {"code": 7},
        ],
        ids=str,
    )
    def test_a_malformed_wish_is_422(self, world: World, wrong: dict[str, object]) -> None:
        refused = world.anybody.refused("POST", "/v1/join", join("mkt_inv_x", **wrong))
        assert refused == "422 invalid_request"

    def test_a_further_role_is_accepted_as_the_person_one_is(
        self, world: World, operator: Person, ana: Person
    ) -> None:
        codes = [operator.post("/v1/invites", {"role": "reviewer"})["code"] for _ in range(2)]
        ana.post("/v1/invites/accept", {"code": codes[0]})
        assert ana.get("/v1/me")["roles"] == ["performer", "reviewer"]
        again = ana.refused("POST", "/v1/invites/accept", {"code": codes[1]})
        assert again == "409 role_already_held"

    def test_a_member_acts_for_one_client(self, world: World, operator: Person) -> None:
        lab = {"name": "Acme Voice Lab", "currency": "USD"}
        one, two = (operator.post("/v1/clients", lab) for _ in range(2))
        joined = world.anybody.post("/v1/join", join(one["invite_code"]))
        member = Caller(world, joined["token"])
        assert member.get("/v1/me")["client_id"] == one["id"]
        other = member.refused("POST", "/v1/invites/accept", {"code": two["invite_code"]})
        assert other == "409 role_already_held"

    def test_a_member_invites_another(self, world: World) -> None:
        acme = world.client()
        code = acme.member.post("/v1/client/invites")["code"]
        joined = world.anybody.post("/v1/join", join(code))
        assert Caller(world, joined["token"]).get("/v1/wallet")["balance_minor"] == 0

    def test_an_unknown_role_or_currency_is_422(self, operator: Person) -> None:
        assert operator.refused("POST", "/v1/invites", {"role": "king"}) == "422 invalid_request"
        # Not even real ones whose amounts are not written with two decimals.
        for currency in ("usd", "US", "DOLLAR", "", 840, "XXX", "JPY", "KWD", "HUF"):
            lab = {"name": "Acme", "currency": currency}
            assert operator.refused("POST", "/v1/clients", lab) == "422 invalid_request"


class TestSigningIn:
    def test_the_right_password_gives_a_device_token(self, world: World, email: str) -> None:
        granted = world.anybody.post("/v1/sign-in", sign_in(email.upper()))
        devices = Caller(world, granted["token"]).get("/v1/devices")["items"]
        assert [device["name"] for device in devices] == ["laptop", "Ana's phone"]

    def test_a_wrong_password_and_an_unknown_address_answer_alike(
        self, world: World, email: str
    ) -> None:
        wrong = world.anybody.ask("POST", "/v1/sign-in", sign_in(email, "x" * 12))
        unknown = world.anybody.ask("POST", "/v1/sign-in", sign_in("x@y.test"))
        assert wrong.status_code == unknown.status_code == 401
        assert wrong.json() == unknown.json()

    def test_ten_failures_close_the_door_for_a_while(self, world: World, email: str) -> None:
        for _ in range(10):
            refused = world.anybody.refused("POST", "/v1/sign-in", sign_in(email, "x" * 12))
            assert refused == "401 sign_in_refused"
        closed = world.anybody.ask("POST", "/v1/sign-in", sign_in(email))
        assert (closed.status_code, closed.json()["code"]) == (429, "too_many_failures")
        assert 1 <= int(closed.headers["retry-after"]) <= 15 * 60 + 1
        world.advance(15 * 60 + 5)
        assert world.anybody.post("/v1/sign-in", sign_in(email))["token"]

    def test_success_forgets_failures(self, world: World, email: str) -> None:
        for _ in range(9):
            world.anybody.refused("POST", "/v1/sign-in", sign_in(email, "x" * 12))
        world.anybody.post("/v1/sign-in", sign_in(email))
        assert world.value("SELECT count(*) FROM sign_in_failure") == 0

    def test_failures_are_forgotten_when_their_window_is_over(
        self, world: World, email: str
    ) -> None:
        world.anybody.refused("POST", "/v1/sign-in", sign_in("nobody@example.test"))
        world.advance(15 * 60 - 5)
        world.anybody.refused("POST", "/v1/sign-in", sign_in(email, "x" * 12))
        assert world.sweep("sign_in_failures") == 0
        world.advance(10)
        assert world.sweep("sign_in_failures") == 1
        assert world.value("SELECT count(*) FROM sign_in_failure") == 1

    def test_a_reset_signs_every_device_out(self, world: World, email: str) -> None:
        phone = Caller(world, world.anybody.post("/v1/sign-in", sign_in(email))["token"])
        code = world.transact(
            lambda session: service.password_reset_code(session, email=email)
        ).secret
        wanted = {"code": code, "password": "another long sentence"}
        world.anybody.post("/v1/password-reset", wanted)
        assert phone.refused("GET", "/v1/me") == "401 unauthorized"
        old = world.anybody.refused("POST", "/v1/sign-in", sign_in(email))
        assert old == "401 sign_in_refused"
        new = sign_in(email, "another long sentence")
        assert world.anybody.post("/v1/sign-in", new)["token"]
        again = world.anybody.refused("POST", "/v1/password-reset", wanted)
        assert again == "400 code_not_valid"

    def test_a_reset_code_lasts_an_hour(self, world: World, email: str) -> None:
        code = world.transact(
            lambda session: service.password_reset_code(session, email=email)
        ).secret
        world.advance(HOUR + 1)
        wanted = {"code": code, "password": "another long sentence"}
        assert world.anybody.refused("POST", "/v1/password-reset", wanted) == "400 code_not_valid"


class TestManyAtOnce:
    """Hashing is slow on purpose; it must not keep anybody else waiting, nor let guesses through."""

    @contextmanager
    def busy(self, world: World) -> Iterator[None]:
        """Every hash waits until the block ends."""

        async def take() -> None:
            for number in range(int(passwords.AT_ONCE.total_tokens)):
                passwords.AT_ONCE.acquire_on_behalf_of_nowait(number)

        async def give_back() -> None:
            for number in range(int(passwords.AT_ONCE.total_tokens)):
                passwords.AT_ONCE.release_on_behalf_of(number)

        world.loopback.run(take())
        try:
            yield
        finally:
            world.loopback.run(give_back())

    def waiting(self, world: World, number: int = 1) -> None:
        """So many wait for their hash, none of them in a transaction."""

        async def count() -> int:
            return passwords.AT_ONCE.statistics().tasks_waiting

        deadline = time.monotonic() + 10
        while world.loopback.run(count()) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        in_transactions = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        assert world.value(in_transactions) == 0

    def start(
        self, crowd: ThreadPoolExecutor, world: World, path: str, body: dict[str, object]
    ) -> Future[int]:
        return crowd.submit(lambda: world.anybody.ask("POST", path, body).status_code)

    def test_a_try_is_counted_before_its_password_is_checked(
        self, world: World, email: str
    ) -> None:
        with ThreadPoolExecutor() as crowd:
            with self.busy(world):
                signed_in = self.start(crowd, world, "/v1/sign-in", sign_in(email))
                self.waiting(world)
                assert world.value("SELECT failures FROM sign_in_failure") == 1
            assert signed_in.result() == 201
        assert world.value("SELECT count(*) FROM sign_in_failure") == 0

    def test_parallel_tries_do_not_outrun_the_count(self, world: World, email: str) -> None:
        wrong = sign_in(email, "x" * 12)
        with ThreadPoolExecutor(25) as crowd:
            tries = [self.start(crowd, world, "/v1/sign-in", wrong) for _ in range(25)]
            assert Counter(each.result() for each in tries) == {401: 10, 429: 15}

    def test_who_finds_the_line_full_is_told_so_and_not_counted(
        self, world: World, email: str
    ) -> None:
        places = 0
        while passwords.PLACES.acquire(blocking=False):
            places += 1
        try:
            for path, body in (
                ("/v1/sign-in", sign_in(email)),
                ("/v1/join", join("mkt_inv_x")),
                ("/v1/password-reset", {"code": "mkt_rst_x", "password": SENTENCE}),
            ):
                assert world.anybody.refused("POST", path, body) == "503 try_again"
        finally:
            passwords.PLACES.release(places)
        assert world.value("SELECT count(*) FROM sign_in_failure") == 0
        assert world.anybody.post("/v1/sign-in", sign_in(email))["token"]

    def test_two_who_join_with_one_code_at_once(self, world: World, operator: Person) -> None:
        code = operator.post("/v1/invites", {"role": "performer"})["code"]
        self.one_of_two_is_served(world, "/v1/join", lambda: join(code), 201)

    def test_two_resets_with_one_code_at_once(self, world: World, email: str) -> None:
        code = world.transact(
            lambda session: service.password_reset_code(session, email=email)
        ).secret
        wanted: dict[str, object] = {"code": code, "password": SENTENCE}
        self.one_of_two_is_served(world, "/v1/password-reset", lambda: wanted, 204)

    def one_of_two_is_served(
        self, world: World, path: str, body: Callable[[], dict[str, object]], served: int
    ) -> None:
        with ThreadPoolExecutor() as crowd:
            with self.busy(world):
                both = [self.start(crowd, world, path, body()) for _ in range(2)]
                self.waiting(world, 2)
            assert sorted(each.result() for each in both) == [served, 400]

    def test_a_password_that_was_reset_meanwhile_opens_nothing(
        self, world: World, email: str
    ) -> None:
        with ThreadPoolExecutor() as crowd:
            with self.busy(world):
                signed_in = self.start(crowd, world, "/v1/sign-in", sign_in(email))
                self.waiting(world)
                world.sql("UPDATE person SET password_hash = 'another' WHERE email = %s", email)
            assert signed_in.result() == 401


class TestTokens:
    def test_a_device_is_signed_out_at_once(self, world: World, ana: Person) -> None:
        (device,) = ana.get("/v1/devices")["items"]
        assert ana.ask("DELETE", f"/v1/devices/{device['id']}").json()["revoked_at"]
        assert ana.refused("GET", "/v1/me") == "401 unauthorized"

    def test_devices_and_keys_are_read_in_pages(self, world: World, ana: Person) -> None:
        acme = world.client()
        ours = UUID(ana.id)
        for _ in range(4):
            world.transact(
                lambda session: service.issue_device_token(session, person_id=ours, device="phone")
            )
            acme.member.post("/v1/api-keys", {"name": "reader", "scopes": ["jobs:read"]})
        for caller, path in ((ana, "/v1/devices"), (acme.member, "/v1/api-keys")):
            whole = caller.get(path)["items"]
            assert [each["id"] for each in whole] == sorted((e["id"] for e in whole), reverse=True)
            pages = caller.pages(path, limit=2)
            assert [len(page) for page in pages] == [2, 2, 1]
            assert [each for page in pages for each in page] == whole
            assert caller.refused("GET", path, query={"limit": 0}) == "422 invalid_request"

    def test_anothers_device_is_404(self, world: World, ana: Person, ravi: Person) -> None:
        (device,) = ana.get("/v1/devices")["items"]
        assert ravi.refused("DELETE", f"/v1/devices/{device['id']}") == "404 not_found"

    def test_a_device_token_expires(self, world: World, ana: Person) -> None:
        world.advance(91 * DAY)
        assert ana.refused("GET", "/v1/me") == "401 unauthorized"

    @pytest.mark.parametrize(
        "token", ["", "x", "mkt_dev_", "mkt_live_\x00", "Bearer", "mkt_dev_" + "x" * 9_000]
    )
    def test_nonsense_is_401(self, world: World, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}".strip().replace("\x00", "0")}
        assert world.anybody.refused("GET", "/v1/me", headers=headers) == "401 unauthorized"

    def test_a_typo_is_401(self, world: World, ana: Person) -> None:
        assert ana.token is not None
        typo = Caller(
            world, ana.token[:-8] + ("a" if ana.token[-8] != "a" else "b") + ana.token[-7:]
        )
        assert typo.refused("GET", "/v1/me") == "401 unauthorized"

    def test_only_hashes_are_kept(self, world: World, ana: Person) -> None:
        for row in world.sql("SELECT * FROM access_token"):
            assert ana.token not in {str(value) for value in row.values()}

    def test_a_key_may_do_what_its_scopes_say(self, world: World) -> None:
        acme = world.client()
        wanted = {"name": "reader", "scopes": ["jobs:read"], "expires_in_days": 30}
        made = acme.member.post("/v1/api-keys", wanted)
        key = Caller(world, made["token"])
        assert key.get("/v1/jobs")["items"] == []
        assert key.refused("POST", "/v1/jobs", new_job()) == "403 scope_missing"
        assert key.refused("POST", "/v1/api-keys", wanted) == "403 forbidden"
        assert acme.member.ask("DELETE", f"/v1/api-keys/{made['id']}").is_success
        assert key.refused("GET", "/v1/jobs") == "401 unauthorized"
        assert acme.member.get("/v1/api-keys")["items"][0]["revoked_at"]

    def test_a_key_expires(self, world: World) -> None:
        acme = world.client()
        wanted = {"name": "reader", "scopes": ["jobs:read"], "expires_in_days": 1}
        key = Caller(world, acme.member.post("/v1/api-keys", wanted)["token"])
        world.advance(DAY + 1)
        assert key.refused("GET", "/v1/jobs") == "401 unauthorized"

    def test_another_clients_key_is_404(self, world: World) -> None:
        acme, another = world.client(), world.client("another client")
        wanted = {"name": "reader", "scopes": ["jobs:read"]}
        made = acme.member.post("/v1/api-keys", wanted)
        refused = another.member.refused("DELETE", f"/v1/api-keys/{made['id']}")
        assert refused == "404 not_found"

    @pytest.mark.parametrize(
        "wrong",
        [{"scopes": []}, {"scopes": ["all"]}, {"expires_in_days": 731}, {"expires_in_days": True}],
    )
    def test_a_malformed_key_is_422(self, world: World, wrong: dict[str, object]) -> None:
        wanted = {"name": "reader", "scopes": ["jobs:read"], **wrong}
        refused = world.client().member.refused("POST", "/v1/api-keys", wanted)
        assert refused == "422 invalid_request"
