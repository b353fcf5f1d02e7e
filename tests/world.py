"""What a story needs: its own database and Stripe sandbox, people who speak HTTP, and time.

People are made with the product's own service functions, without the slow password hash; all they
do afterwards goes over HTTP. Sweeps run only when a story says so, and time passes only when it
says so.
"""

import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
import psycopg
import sqlalchemy as sa
from psycopg.rows import dict_row
from pydantic import SecretStr
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace import scheduler
from marketplace.accounts import service as accounts
from marketplace.accounts.models import Client as ClientRow
from marketplace.accounts.models import ClientMember, PersonRole, Role, Scope
from marketplace.accounts.models import Person as PersonRow
from marketplace.app import create_app, parts_of
from marketplace.performers import service as performers
from marketplace.performers.models import PerformerState
from marketplace.performers.schemas import Profile
from marketplace.shared import audit
from marketplace.shared.database import connect, driver_url
from marketplace.shared.settings import Settings
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_sandbox import state as at_stripe
from marketplace.stripe_sandbox.app import build_app
from marketplace.stripe_sandbox.state import open_state
from tests.loopback import Loopback
from tests.stripe_judge import Judged

HOUR = 3_600
DAY = 24 * HOUR
HEARTBEAT_SECONDS = 60
LATE_IN_A_SECOND = 0.4
TAKE = Path(__file__).parents[1] / "marketplace" / "demo_audio" / "grief-lost-letter.flac"
STRIPE_KEY = "sk_test_sandbox"
# Stories do not wait for their turn.
STRIPE_REQUESTS_PER_SECOND = 10_000
POLLS = ("poll_events", "poll_deposits", "poll_topups", "poll_accounts", "poll_bank_payouts")


def settings(**values: Any) -> Settings:
    return Settings(
        stripe_api_key=SecretStr(STRIPE_KEY),
        stripe_webhook_secret=SecretStr("whsec_platform"),
        stripe_connect_webhook_secret=SecretStr("whsec_connect"),
        stripe_requests_per_second=STRIPE_REQUESTS_PER_SECOND,
        **values,
    )


# One for all stories of a worker: what it has compiled for one serves the next.
ENGINE = connect("postgresql://nowhere", 10)
STORYS_DATABASE: dict[str, Any] = {}


@sa.event.listens_for(ENGINE.sync_engine, "do_connect")
def lead_there(_dialect: Any, _record: Any, _args: Any, asked: dict[str, Any]) -> None:
    asked.update(STORYS_DATABASE)


APP = create_app(settings(database_url="postgresql://nowhere", storage_url="nowhere"), sweeps=False)
Result = TypeVar("Result")
Json = dict[str, Any]


@dataclass
class Caller:
    """Somebody (or nobody) who speaks HTTP to the product."""

    world: "World"
    token: str | None = None

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        content: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        query: Json | None = None,
    ) -> httpx.Response:
        """One request; a POST carries a new idempotency key unless one is given ("" sends none)."""
        sent = dict(headers or {})
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        if method == "POST" and key != "":
            sent.setdefault("Idempotency-Key", key or str(uuid.uuid4()))
        if body is not None:
            content = json.dumps(body)
            sent["Content-Type"] = "application/json"
        return self.world.http.request(
            method, self.world.url + path, content=content, headers=sent, params=query
        )

    def get(self, path: str, **query: Any) -> Any:
        return _content(self.ask("GET", path, query=query))

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        return _content(self.ask("POST", path, body, key=key))

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> str:
        """The refusal as `409 role_taken`."""
        answer = self.ask(method, path, body, **options)
        assert answer.status_code >= 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code
        return f"{answer.status_code} {problem['code']}"

    def pages(self, path: str, **query: Any) -> list[list[Json]]:
        """Every page of a list."""
        found = []
        page = self.get(path, **query)
        found.append(page["items"])
        while page["next_cursor"]:
            page = self.get(path, **query, cursor=page["next_cursor"])
            found.append(page["items"])
        return found


def _content(answer: httpx.Response) -> Any:
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.text}"
    return answer.json() if answer.content else None


@dataclass
class Person(Caller):
    id: str = ""
    name: str = ""


@dataclass
class Client(Caller):
    """A client, speaking through an API key with every scope; its member has a token of their own."""

    id: str = ""
    name: str = ""
    member: Person = field(default_factory=lambda: Person(world=None))  # type: ignore[arg-type]

    @property
    def wallet_minor(self) -> int:
        balance: int = self.get("/v1/wallet")["balance_minor"]
        return balance


@dataclass
class Stripe:
    """The sandbox, looked at and steered from outside."""

    http: httpx.Client
    url: str

    def control(self, method: str, path: str, /, **body: Any) -> Any:
        answer = self.http.request(method, f"{self.url}/_sandbox/{path}", json=body or None)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def fault(self, kind: str, *, path: str = "/v1/transfers", **more: Any) -> None:
        self.control("POST", "faults", path=path, kind=kind, **{"method": "POST", **more})

    def webhook_fault(self, kind: str, event: str, **more: Any) -> None:
        self.control("POST", "webhook_faults", event=event, kind=kind, **more)

    def listen(self, product_url: str) -> None:
        """Tell the product of everything, at an endpoint each for the platform and for accounts."""
        for name in ("platform", "connect"):
            self.control(
                "POST",
                "webhook_endpoints",
                url=f"{product_url}/v1/stripe/webhooks/{name}",
                secret=f"whsec_{name}",
                connect=name == "connect",
            )

    def faults_fired(self) -> int:
        return sum(fault["fired_at"] is not None for fault in self.control("GET", "faults"))

    def restrict(self, account: str) -> None:
        self.control("PUT", f"accounts/{account}/capabilities", transfers="inactive")

    def lift(self, account: str) -> None:
        self.control("PUT", f"accounts/{account}/capabilities", transfers="active")

    def transfers(self) -> list[Json]:
        answer = self.http.get(
            f"{self.url}/v1/transfers?limit=100", headers={"Authorization": f"Bearer {STRIPE_KEY}"}
        )
        data: list[Json] = answer.json()["data"]
        return data

    def fee(self, amount_minor: int, type_: str = "stripe_fee") -> None:
        """Stripe takes it out of the platform's balance, for no single payment."""
        self.control("POST", "fees", amount=amount_minor, currency="usd", type=type_)

    def complete(self, hosted_url: str, outcome: str) -> None:
        assert self.http.post(hosted_url, data={"outcome": outcome}).status_code in {303, 402}

    @property
    def platform_minor(self) -> int:
        """Available and pending together, in USD."""
        amounts = self.control("GET", "state")["balances"]["platform"]["usd"]
        total: int = amounts["available_minor"] + amounts["pending_minor"]
        return total


class World:
    def __init__(
        self,
        *,
        owner_url: str,
        app_url: str,
        loopback: Loopback,
        files: Path,
        sandbox: bytes | None = None,
    ) -> None:
        self.owner_url, self.app_url = owner_url, app_url
        self._remembered = sandbox
        self.loopback = loopback
        self.names = itertools.count(1)
        self.http = loopback.http
        self.stripe = Stripe(loopback.http, loopback.stripe.url)
        self.url = loopback.product.url
        self.settings = settings(
            database_url=app_url,
            stripe_api_base=loopback.stripe.url,
            storage_url=str(files),
            public_url=self.url,
        )

    def __enter__(self) -> Self:
        self._owner = psycopg.connect(self.owner_url, autocommit=True, row_factory=dict_row)
        self._app = self.connection(autocommit=True)
        self._running = AsyncExitStack()
        self.loopback.run(self._start())
        self.anybody = Caller(self)
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self.loopback.run(self._running.aclose())
        for connection in (self._owner, self._app):
            connection.close()
        if not failed:
            assert self.judged.faults == []

    async def _start(self) -> None:
        product, stripe = self.loopback.product, self.loopback.stripe
        self._memory = open_state(Path(":memory:"))
        if self._remembered is not None:
            self._memory.deserialize(self._remembered)
        sandbox = build_app(self._memory, abort=stripe.abort, ready=lambda: None)
        await self._running.enter_async_context(sandbox.router.lifespan_context(sandbox))
        _, there = ENGINE.dialect.create_connect_args(driver_url(self.app_url))
        STORYS_DATABASE.update(there)
        self.parts = await self._running.enter_async_context(parts_of(self.settings, engine=ENGINE))
        # As the application's own lifespan does; its routes are worth keeping from story to story.
        self.app = APP
        self.app.state.settings = self.settings
        self.app.state.sessions = self.parts.sessions
        self.app.state.gateway = self.parts.gateway
        self.app.state.storage = self.parts.storage
        self.judged = Judged(sandbox)
        product.app, stripe.app = self.app, self.judged

    def sandbox(self) -> bytes:
        """All that the sandbox remembers, for a world that begins where this one is."""

        async def read() -> bytes:
            return self._memory.serialize()

        return self.loopback.run(read())

    def change_at_stripe(self, kind: str, id_: str, **changed: Any) -> None:
        """What somebody might do on Stripe's own pages, which the sandbox has not got."""

        async def change() -> None:
            body = at_stripe.find(self._memory, kind, id_)
            assert body is not None
            at_stripe.update(self._memory, body | changed)

        self.loopback.run(change())

    def forget_at_stripe(self, id_: str) -> None:
        """Our key sees it no more."""

        async def forget() -> None:
            self._memory.execute("DELETE FROM object WHERE id = ?", (id_,))

        self.loopback.run(forget())

    @property
    def gateway(self) -> StripeGateway:
        return self.parts.gateway

    @property
    def environment(self) -> dict[str, str]:
        """For a process of its own that works on this story's database and sandbox."""
        settings = self.settings
        return {
            "DATABASE_URL": self.app_url,
            "STRIPE_API_KEY": STRIPE_KEY,
            "STRIPE_API_BASE": settings.stripe_api_base or "",
            "STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secret.get_secret_value(),
            "STRIPE_CONNECT_WEBHOOK_SECRET": (
                settings.stripe_connect_webhook_secret.get_secret_value()
            ),
            "STORAGE_URL": settings.storage_url,
        }

    def transact(self, work: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Run service functions in one transaction that really commits."""

        async def run() -> Result:
            async with self.parts.sessions() as session:
                await audit.act_as(session, "test bed")
                result = await work(session)
                await session.commit()
                return result

        return self.loopback.run(run())

    def sql(self, query: str, *values: Any) -> list[Json]:
        """As the application's login; every statement commits."""
        return self._run(self._app, query, values)

    def owner_sql(self, query: str, *values: Any) -> list[Json]:
        return self._run(self._owner, query, values)

    def value(self, query: str, *values: Any) -> Any:
        (row,) = self.sql(query, *values)
        (found,) = row.values()
        return found

    def _run(
        self, connection: psycopg.Connection[Json], query: str, values: Sequence[Any]
    ) -> list[Json]:
        cursor = connection.execute(query.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def connection(
        self, *, actor: str = "test bed", autocommit: bool = False
    ) -> psycopg.Connection[Json]:
        """One more connection of the application's login."""
        return psycopg.connect(
            self.app_url,
            autocommit=autocommit,
            row_factory=dict_row,
            options=f"-c marketplace.actor={actor.replace(' ', '')} -c lock_timeout=5s",
        )

    # time

    @property
    def now(self) -> datetime:
        stamp: datetime = self.value("SELECT marketplace_now()")
        return stamp

    def advance(self, seconds: float) -> None:
        (clock,) = self.owner_sql(
            "UPDATE clock SET offset_seconds = offset_seconds + %s RETURNING offset_seconds",
            int(seconds),
        )
        self.stripe.control("PUT", "clock", offset_seconds=clock["offset_seconds"])

    def advance_to(self, moment: datetime) -> None:
        """To early in that whole second, so that what follows at once still happens in it."""
        if (left := 1 - self.now.microsecond / 1e6) < LATE_IN_A_SECOND:
            time.sleep(left + 0.005)
        now = self.now.replace(microsecond=0)
        assert moment >= now, "time only goes forward"
        self.advance((moment - now).total_seconds())

    def sweep(self, *names: str) -> int:
        """Run sweeps one after the other; answers what the last one did."""
        done = 0
        for name in names:
            done = self.loopback.run(_swept(name, self.parts))
        return done

    # people

    def person(self, *roles: Role, name: str = "") -> Person:
        called = name or f"Somebody {next(self.names)}"
        secret, person_id = self.transact(lambda session: _join(session, called, roles))
        return Person(self, secret, str(person_id), called)

    def operator(self, name: str = "Olga") -> Person:
        return self.person(Role.OPERATOR, name=name)

    def finance(self, name: str = "Finn") -> Person:
        return self.person(Role.FINANCE, name=name)

    def reviewer(self, name: str = "Ravi") -> Person:
        return self.person(Role.REVIEWER, name=name)

    def performer(
        self, name: str = "Ana", *, vetted: bool = True, onboarded: bool = False, **profile: Any
    ) -> Person:
        person = self.person(Role.PERFORMER, name=name)
        wanted = Profile.model_validate({**PROFILE, **profile})

        async def apply(session: AsyncSession) -> None:
            await performers.apply(session, person_id=UUID(person.id), profile=wanted)
            states = (PerformerState.AUDITIONING, PerformerState.VETTED) if vetted else ()
            for state in states:
                await performers.change_state(
                    session, person_id=UUID(person.id), to=state, reason="known from the stage"
                )

        self.transact(apply)
        if onboarded:
            self.onboard(person)
        return person

    def onboard(self, performer: Person, outcome: str = "complete") -> str:
        """Open the performer's account at Stripe; answers its id."""
        opened = performer.post("/v1/payout-account", {"return_url": "https://app.example/paid"})
        self.stripe.complete(opened["onboarding_url"], outcome)
        self.advance(5 * 60)
        self.sweep("poll_accounts")
        account: str = self.value(
            "SELECT stripe_account_id FROM payout_account WHERE performer_id = %s", performer.id
        )
        return account

    def replace_account(self, performer: Person, finance: Person) -> str:
        """Retired, and another one opened and cooled; answers its id."""
        why = {"reason": "It is another's account."}
        finance.post(f"/v1/performers/{performer.id}/payout-account/retire", why)
        account = self.onboard(performer)
        self.advance(3 * DAY)
        self.sweep("funds")
        return account

    def client(
        self, name: str = "Acme Voice Lab", *, currency: str = "USD", deposit_minor: int = 0
    ) -> Client:
        member = self.person(name=f"Member of {name}")
        client_id, key = self.transact(
            lambda session: _found_client(session, name, currency, UUID(member.id))
        )
        made = Client(self, key, str(client_id), name, member)
        if deposit_minor:
            self.deposit(made, deposit_minor)
        return made

    # money

    def paid_at_stripe(self, client: Client, amount_minor: int) -> Json:
        """Paid on Stripe's hosted page; we do not know yet."""
        asked = {"amount_minor": amount_minor, "success_url": "https://acme.example/wallet"}
        deposit: Json = client.post("/v1/wallet/deposits", asked)
        self.stripe.complete(deposit["checkout_url"], "card")
        return deposit

    def deposit(self, client: Client, amount_minor: int) -> Json:
        """Paid, and credited by the poller, as if every webhook was lost."""
        deposit = self.paid_at_stripe(client, amount_minor)
        self.advance(60)
        self.sweep("poll_deposits")
        credited: Json = client.get(f"/v1/wallet/deposits/{deposit['id']}")
        assert credited["state"] == "credited"
        return credited

    def capital(self, finance: Person, amount_minor: int) -> None:
        """The platform's own money, available at Stripe at once."""
        topup = finance.post("/v1/topups", {"amount_minor": amount_minor, "currency": "USD"})
        self.advance(60)
        self.sweep("poll_topups")
        assert finance.get(f"/v1/topups/{topup['id']}")["state"] == "succeeded"

    # work

    def job(self, client: Client, **wanted: Any) -> Json:
        job: Json = client.post("/v1/jobs", new_job(**wanted))
        return job

    def published_job(self, client: Client, **wanted: Any) -> Json:
        """All of its roles open; the first of its kind sets the rate of its kind."""
        job = self.job(client, **wanted)
        published: Json = client.post(f"/v1/jobs/{job['id']}/publish", {})
        return published

    def roles(self, job: Json) -> list[str]:
        found = self.sql("SELECT id FROM role WHERE job_id = %s ORDER BY id", job["id"])
        return [str(row["id"]) for row in found]

    def claim(self, performer: Person, job: Json) -> Json:
        """The first role of the job on the performer's board."""
        role = performer.get("/v1/board", job_id=job["id"])["items"][0]
        claim: Json = performer.post("/v1/claims", {"role_id": role["role_id"]})
        return claim

    def work(self, performer: Person, claim: Json, activity: str, seconds: int) -> Json:
        """Do an activity for exactly so long, with a heartbeat every minute."""
        path = f"/v1/claims/{claim['id']}"
        answer = performer.post(f"{path}/time", {"activity": activity})
        started = datetime.fromisoformat(answer["entry"]["started_at"])
        for _ in range((seconds - 1) // HEARTBEAT_SECONDS):
            self.advance(HEARTBEAT_SECONDS)
            performer.post(f"{path}/heartbeat")
        self.advance_to(started + timedelta(seconds=seconds))
        stopped: Json = performer.post(f"{path}/time/stop")
        return stopped

    def take(
        self, performer: Person, claim: Json, *, found: str = "passed", content: bytes = b""
    ) -> str:
        """A recording, checked with a given outcome (`found`) without measuring audio.

        Its bytes are stored only if they are given.
        """
        path = f"/v1/claims/{claim['id']}/recordings"
        if content:
            recording = upload(performer, path, content)
        else:
            recording = declare(performer, path, b"a take that was never sent")
            self.sql("UPDATE recording SET state = 'checking' WHERE id = %s", recording["id"])
        self.sql(
            "UPDATE recording SET state = %s, due_at = NULL, report = '{\"results\": []}'"
            " WHERE id = %s",
            found,
            recording["id"],
        )
        identity: str = recording["id"]
        return identity

    def hand_in(self, performer: Person, claim: Json, *takes: str) -> Json:
        handed_in = {"recording_ids": list(takes), "self_labels": SELF_LABELS}
        path = f"/v1/claims/{claim['id']}/submissions"
        submission: Json = performer.post(path, handed_in)
        self.sweep("reviews")
        return submission

    def submitted_claim(
        self, performer: Person, job: Json, *, seconds: int = 60, found: str = "passed"
    ) -> Json:
        """Claimed, performed for so long, recorded, handed in, checked."""
        claim = self.claim(performer, job)
        self.work(performer, claim, "perform", seconds)
        self.hand_in(performer, claim, self.take(performer, claim, found=found))
        return claim

    def accepted_claim(
        self, performer: Person, job: Json, reviewer: Person, *, seconds: int = 60
    ) -> Json:
        self.submitted_claim(performer, job, seconds=seconds)
        self.judge(reviewer, ACCEPT)
        claim: Json = performer.get("/v1/claims")["items"][0]
        return claim

    def judge(self, reviewer: Person, verdict: Json) -> Json:
        review = reviewer.post("/v1/reviews/next")
        answer: Json = reviewer.post(f"/v1/reviews/{review['id']}/verdict", verdict)
        return answer

    def ledger(self, kind: str, owner_id: str | None = None) -> int:
        """An account's balance in USD, debits minus credits."""
        total = self.value(
            "SELECT coalesce(sum(amount_minor), 0)::bigint FROM ledger_entry"
            " WHERE account_id = account_id(%s, %s, 'USD')",
            kind,
            owner_id,
        )
        return int(total)


async def _swept(name: str, parts: scheduler.Parts) -> int:
    return await scheduler.SWEEPS[name].run(parts)


async def _join(session: AsyncSession, name: str, roles: Sequence[Role]) -> tuple[str, UUID]:
    person = PersonRow(email=f"{uuid.uuid4()}@example.test", name=name, password_hash="none")
    session.add(person)
    await session.flush()
    session.add_all(PersonRole(person_id=person.id, role=role) for role in roles)
    granted = await accounts.issue_device_token(session, person_id=person.id, device="phone")
    return granted.secret, person.id


async def _found_client(
    session: AsyncSession, name: str, currency: str, member_id: UUID
) -> tuple[UUID, str]:
    client = ClientRow(name=name, currency=currency)
    session.add(client)
    await session.flush()
    session.add(ClientMember(person_id=member_id, client_id=client.id))
    await session.flush()
    _, key = await accounts.create_api_key(
        session,
        client_id=client.id,
        name="pipeline",
        scopes=list(Scope),
        lasts=accounts.DEVICE_TOKEN_LASTS,
        created_by=member_id,
    )
    return client.id, key


def declare(performer: Person, path: str, content: bytes) -> Json:
    recording: Json = performer.post(
        path, {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    )
    return recording


def upload(performer: Person, path: str, content: bytes) -> Json:
    recording = declare(performer, path, content)
    stored = performer.ask("PUT", recording["upload_path"], content=content)
    assert stored.status_code == 200, stored.text
    answer: Json = stored.json()
    return answer


PROFILE: Json = {
    "languages": ["en-US"],
    "skills": ["improv"],
    "accents": ["midwest"],
    "time_zone": "America/Chicago",
    "work_country": "US",
}
SELF_LABELS: Json = {"emotion": "sadness", "intensity": "medium"}
GOOD_SCORES = {
    "brief_followed": 4,
    "emotion_conveyed": 3,
    "naturalness": 3,
    "listening": 3,
    "listenability": 4,
}
ACCEPT: Json = {"verdict": "accept", "scores": GOOD_SCORES}
RETAKE: Json = {
    "verdict": "retake",
    "scores": GOOD_SCORES,
    "reason_code": "technical",
    "comment": "A door slams at 0:12.",
}
REFUSE: Json = {
    "verdict": "refuse",
    "scores": GOOD_SCORES,
    "reason_code": "brief_not_followed",
    "comment": "From 0:12 on it is read, not played.",
    "timestamps": [{"from_seconds": 12, "to_seconds": 30.5}],
}


def new_job(
    *,
    tasks: int = 1,
    languages: Sequence[str] = ("en-US",),
    skills: Sequence[str] = ("improv",),
    accents: Sequence[str] = (),
    age_bands: Sequence[str] = (),
    elicitation: str = "improv_solo",
    tier: str = "studio",
    people: int = 1,
    labels: Json | None = None,
    speakers: Json | None = None,
    **fields: Any,
) -> Json:
    """The worked example's job: 74.00 an hour, 600 s of preparation, 2,400 s, one retake."""
    role = {
        "name": "The one who lost it",
        "brief": "You find the letter you thought was gone.",
        "target": {"emotion": "sadness"},
    }
    task = {
        "scenario": {"title": "The lost letter", "brief": "A quiet kitchen, late evening."},
        "roles": [role] * people,
        "copies": tasks,
    }
    specification = {
        "elicitation": elicitation,
        "labels": labels or {"scheme": "big6_neutral"},
        "speakers": {
            "languages": list(languages),
            "skills": list(skills),
            "accents": list(accents),
            "age_bands": list(age_bands),
            **(speakers or {}),
        },
        "audio": {"tier": tier},
        "licence": {
            "version": "acme-1",
            "text": "Acme Voice Lab may use the takes to evaluate.",
            "allowed_uses": ["evaluation"],
        },
    }
    return {
        "title": "Grief and relief",
        "brief": "Honest, small, improvised.",
        "specification": specification,
        "rate_minor_per_hour": 7_400,
        "prep_seconds_cap": 600,
        "perform_seconds_cap": 2_400,
        "retakes_max": 1,
        "tasks": [task],
        **fields,
    }
