"""The people of the demo, each with a token of their own, and what they do over HTTP."""

import asyncio
import hashlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from marketplace.demo.stage import PlayBroke
from marketplace.installation import InstallationError

MOST_AT_ONCE = 16
# Checks of a large cast's recordings queue up.
PATIENCE_SECONDS = 300
PIECE_BYTES = 256 * 1024
HEADER_BYTES = 12
DEMO_AUDIO = Path(__file__).parents[1] / "demo_audio"
SOMEWHERE = "https://app.example/done"
USABLE = ("passed", "look")

Found = TypeVar("Found")
Outcome = Literal["complete", "card"]


class Refused(Exception):
    """The API said no: its status, its stable code, its sentence."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Api:
    """The servers as anybody reaches them, gently: few requests at a time."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=120, trust_env=False)
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def call(self, method: str, path: str, token: str | None = None, **sent: Any) -> Any:
        """The answer's JSON. Raises Refused, or PlayBroke when nobody answers."""
        answer = await self.send(method, path, token, **sent)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise PlayBroke(
                f"{answer.url} is not the marketplace: it does not speak JSON"
            ) from error

    async def send(
        self, method: str, path: str, token: str | None = None, **sent: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if method == "POST":
            headers["Idempotency-Key"] = secrets.token_hex(16)
        headers |= sent.pop("headers", {})
        try:
            async with self._slots:
                answer = await self._http.request(method, path, headers=headers, **sent)
        except httpx.TransportError as error:
            raise _silence(f"{method} {self._http.base_url.join(path)}", error) from error
        if answer.status_code >= 400:
            raise _refusal(answer)
        return answer

    async def fill_in(self, hosted_page: str, outcome: Outcome) -> None:
        """Complete one of Stripe's hosted pages as a person would: it leads back to us."""
        try:
            async with self._slots:
                answer = await self._http.post(hosted_page, data={"outcome": outcome})
        except httpx.TransportError as error:
            raise _silence("Stripe's page", error) from error
        if answer.status_code != 303:
            raise PlayBroke(f"Stripe's page answered {answer.status_code} instead of leading back")


def _silence(asked: str, error: httpx.TransportError) -> PlayBroke:
    return PlayBroke(f"{asked} got no answer: {type(error).__name__} {error}".strip())


def _refusal(answer: httpx.Response) -> Refused:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    code = problem.get("code", "")
    detail = problem.get("detail") or answer.text[:200] or "no detail"
    return Refused(answer.status_code, code, f"{detail} {problem.get('errors') or ''}".strip())


async def until(what: str, ask: Callable[[], Awaitable[Found | None]]) -> Found:
    """Ask until the answer is not empty."""
    wait = 0.1
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not (found := await ask()):
        if asyncio.get_running_loop().time() > deadline:
            raise PlayBroke(f"waited {PATIENCE_SECONDS} s in vain until {what}")
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, 1.0)
    return found


@dataclass(frozen=True)
class Take:
    """A file that stands for what a performer records."""

    path: Path
    size_bytes: int
    sha256: str


def takes_in(folder: Path | None) -> list[Take]:
    """The WAV and FLAC files of a folder (default: ours). Raises InstallationError."""
    folder = folder or DEMO_AUDIO
    if not folder.is_dir():
        raise InstallationError(f"--audio {folder}: no such folder")
    try:
        files = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in {".wav", ".flac"}
        )
        takes = [_take(path) for path in files]
    except OSError as error:
        where = error.filename or folder
        raise InstallationError(f"--audio {where} cannot be read: {error.strerror}") from error
    if not takes:
        raise InstallationError(f"--audio {folder}: no .wav or .flac files in it")
    return takes


def _take(path: Path) -> Take:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
        if start[:4] != b"fLaC" and not (start[:4] in {b"RIFF", b"RF64"} and start[8:] == b"WAVE"):
            raise InstallationError(f"--audio {path}: neither a WAV nor a FLAC file")
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
        return Take(path, file.tell(), digest.hexdigest())


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


@dataclass(eq=False)
class Person:
    """Somebody with a token; a client's API key counts as one."""

    api: Api
    name: str
    token: str
    id: str = ""

    async def get(self, path: str, **query: Any) -> Any:
        return await self.api.call("GET", path, self.token, params=query)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return await self.api.call("POST", path, self.token, json=body)

    async def pages(self, path: str, **query: Any) -> list[Any]:
        """All items of a list."""
        items: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.get(path, limit=100, **query, **cursor)
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}


async def join(api: Api, code: str, name: str) -> Person:
    """A new person; the address is fresh, so that a play can be repeated on the same data."""
    address = f"{name.lower().replace(' ', '-')}-{secrets.token_hex(4)}@example.org"
    body = {
        "code": code,
        "email": address,
        "name": name,
        "password": secrets.token_urlsafe(24),
        "device": f"{name}'s phone",
    }
    granted = await api.call("POST", "/v1/join", json=body)
    return Person(api, name, granted["token"], granted["person_id"])


class Operator(Person):
    async def invite(self, role: str, name: str) -> Person:
        code = (await self.post("/v1/invites", {"role": role}))["code"]
        return await join(self.api, code, name)

    async def invite_performer(self, name: str) -> "Performer":
        return Performer(**vars(await self.invite("performer", name)))

    async def set_minimum_rate(self, currency: str, rate_minor_per_hour: int) -> None:
        body = {"currency": currency, "rate_minor_per_hour": rate_minor_per_hour}
        await self.post("/v1/minimum-rates", {**body, "reason": "What we think is fair."})

    async def set_audition_rate(self, currency: str, rate_minor_per_hour: int) -> None:
        body = {"currency": currency, "rate_minor_per_hour": rate_minor_per_hour}
        await self.post("/v1/audition-rates", {**body, "reason": "An audition is work."})

    async def offer_audition(self, performer: Person, currency: str) -> None:
        body = {
            "brief": "Two minutes as someone who finds a letter they lost.",
            "currency": currency,
            "seconds_cap": 600,
        }
        await self.post(f"/v1/performers/{performer.id}/auditions", body)


class Reviewer(Person):
    async def next_take(self) -> Any:
        """The take that waits longest, or None. It is assigned, not chosen."""
        try:
            return await self.post("/v1/reviews/next")
        except Refused as refused:
            if refused.code == "nothing_to_review":
                return None
            raise

    async def judge(self, review: Mapping[str, Any], verdict: str, comment: str = "") -> None:
        score = 3 if verdict == "accept" else 1
        rubric = (
            "brief_followed",
            "emotion_conveyed",
            "naturalness",
            "listening",
            "listenability",
        )
        body: dict[str, Any] = {"verdict": verdict, "scores": dict.fromkeys(rubric, score)}
        if verdict != "accept":
            body |= {
                "reason_code": "brief_not_followed",
                "comment": comment,
                "timestamps": [{"from_seconds": 0, "to_seconds": 5}],
            }
        await self.post(f"/v1/reviews/{review['id']}/verdict", body)

    async def vet(self, performer: "Performer") -> None:
        body = {"outcome": "passed", "reason": "Listens, and plays what is there."}
        await self.post(f"/v1/auditions/{performer.audition_id}/decision", body)


@dataclass(eq=False)
class Performer(Person):
    audition_id: str = ""

    async def apply(self, profile: Mapping[str, Any]) -> None:
        await self.post("/v1/performer", profile)

    async def onboard(self) -> None:
        """On Stripe's page; done when its event arrived, not when we are led back."""
        page = await self.post("/v1/payout-account", {"return_url": SOMEWHERE})
        await self.api.fill_in(page["onboarding_url"], "complete")
        await until(f"{self.name} can be paid", self._can_be_paid)

    async def _can_be_paid(self) -> bool:
        return bool((await self.get("/v1/payout-account"))["transfers"] == "active")

    async def start_audition(self) -> None:
        self.audition_id = (await self.post("/v1/audition/start"))["id"]

    async def keep_auditioning(self) -> None:
        await self.post("/v1/audition/heartbeat")

    async def hand_audition_in(self, take: Take) -> Any:
        recording = await self.record("/v1/audition/recordings", take)
        return await self.post("/v1/audition/hand-in", {"recording_id": recording["id"]})

    async def record(self, path: str, take: Take) -> Any:
        """Declare and upload a take; answers it with its checks."""
        declared = await self.post(path, {"size_bytes": take.size_bytes, "sha256": take.sha256})
        await self.api.send(
            "PUT",
            declared["upload_path"],
            self.token,
            content=_pieces(take.path),
            headers={"Content-Length": str(take.size_bytes)},
        )
        checked = await until("a take is checked", lambda: self._checked(declared["id"]))
        if checked["state"] not in USABLE:
            why = checked["state_reason"] or _failed_gates(checked["report"])
            raise PlayBroke(f"{take.path} did not pass its checks: {why}")
        return checked

    async def _checked(self, recording_id: str) -> Any:
        recording = await self.get(f"/v1/recordings/{recording_id}")
        return None if recording["state"] in {"uploading", "checking"} else recording

    async def board(self, job_id: str) -> list[Any]:
        page = await self.get("/v1/board", job_id=job_id, limit=100)
        items: list[Any] = page["items"]
        return items

    async def claim(self, role_id: str) -> Any:
        return await self.post("/v1/claims", {"role_id": role_id})

    async def claim_something(self, job_id: str) -> tuple[Any, Any, int]:
        """Some role of the job that nobody else was quicker to claim: what the board said of it,
        the claim, and how often somebody was quicker.
        """
        lost = 0
        while roles := await self.board(job_id):
            wanted = random.choice(roles)  # noqa: S311 - tastes differ
            try:
                return wanted, await self.claim(wanted["role_id"]), lost
            except Refused as refused:
                if refused.code != "role_taken":
                    raise
                lost += 1
        raise PlayBroke(f"{self.name} finds no open role of job {job_id} on the board")


def _failed_gates(report: Mapping[str, Any] | None) -> str:
    results = (report or {}).get("results", [])
    return ", ".join(
        f"{result['metric']} is {result['value']} {result['unit']}, must be {result['look_limit']}"
        for result in results
        if result["verdict"] == "retake"
    )


@dataclass(eq=False)
class Work:
    """One claim on its way: whose it is, what the board promised, what comes of it."""

    performer: Performer
    role: Mapping[str, Any]
    claim: dict[str, Any]
    outcome: str = "accepted"
    take: Take | None = None
    falls_silent: bool = False
    submissions: list[str] = field(default_factory=list)
    left: list[tuple[str, int]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/v1/claims/{self.claim['id']}"

    def plan(self, *activities: tuple[str, int]) -> None:
        """What is done next, with whole seconds; within the role's caps."""
        caps = {"prep": "prep_seconds_cap"}
        self.left = [
            (activity, min(seconds, self.role[caps.get(activity, "perform_seconds_cap")]))
            for activity, seconds in activities
        ]
        self.left = [each for each in self.left if each[1] > 0]

    async def start_next(self) -> None:
        if self.left:
            await self.performer.post(f"{self.path}/time", {"activity": self.left[0][0]})
        elif not self.falls_silent:
            await self.performer.post(f"{self.path}/time/stop")

    async def after(self, seconds: int) -> None:
        """So many seconds later: go on, or do what comes next."""
        activity, left = self.left[0]
        if left > seconds:
            self.left[0] = (activity, left - seconds)
            await self.performer.post(f"{self.path}/heartbeat")
        else:
            self.left.pop(0)
            await self.start_next()

    async def hand_in(self) -> None:
        assert self.take is not None
        recording = await self.performer.record(f"{self.path}/recordings", self.take)
        labels = {"emotion": self.role["target"]["emotion"], "intensity": "medium"}
        body = {"recording_ids": [recording["id"]], "self_labels": labels}
        submission = await self.performer.post(f"{self.path}/submissions", body)
        self.submissions.append(submission["id"])
        await until("a submission can be reviewed", self._in_review)

    async def _in_review(self) -> bool:
        submissions = (await self.performer.get(f"{self.path}/submissions"))["items"]
        return bool(submissions[-1]["state"] != "checking")

    async def refresh(self) -> dict[str, Any]:
        self.claim = await self.performer.get(self.path)
        return self.claim

    async def pay(self) -> Any:
        """What was decided on its pay, or None."""
        try:
            return await self.performer.get(f"{self.path}/pay")
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
