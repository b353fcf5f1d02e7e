"""`marketplace simulate JOB_ID`: the demo's cast works on a client's own job.

For a client who tries the API against a sandbox server of theirs (`marketplace serve`) and wants to
see claims, takes and verdicts come in. A new operator invites a new cast; it auditions, claims what
is open, performs, hands in and reviews. On a virtual clock it moves the time; with a real one its
entries are short.

The cast must speak the job's languages and have its skills. With the client's token (`--token` or
MARKETPLACE_TOKEN, scope `jobs:read`) it reads them from the job. Without, it comes with common
languages and skills, and the job is refused if it is not on the board for such people.
"""

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from marketplace import installation
from marketplace.demo.cast import Api, Refused, Work, takes_in
from marketplace.demo.outcome import Line, money
from marketplace.demo.stage import Clock, PlayBroke, RealClock, Teller, command
from marketplace.demo.troupe import (
    ACCEPTED,
    CLAIMS_AT_ONCE,
    REAL_TIME,
    RETAKE,
    Pace,
    Troupe,
    add,
    assemble,
    audition,
    claim,
    hand_in,
    name_of,
    review,
    work_together,
)
from marketplace.installation import InstallationError

COMMON_LANGUAGES = (
    *("en-US", "en-GB", "en-AU", "en-IN", "es-ES", "es-MX", "fr-FR", "de-DE", "it-IT", "nl-NL"),
    *("pt-BR", "pt-PT", "pl-PL", "sv-SE", "tr-TR", "ru-RU", "ja-JP", "ko-KR", "zh-CN", "ar-EG"),
)
COMMON_SKILLS = ("acting", "dialogue", "improv", "narration", "singing", "voice_acting")


def run(options: argparse.Namespace) -> int:
    """Raises InstallationError when there is nothing to simulate on, or PlayBroke on the way."""
    takes = takes_in(options.audio)
    if not os.environ.get("DATABASE_URL") and not (options.data / "running.env").exists():
        raise InstallationError(f"nothing is served from {options.data}: run `marketplace serve`")
    with installation.parts_for_command(options.data) as variables:
        public_url = variables.get("PUBLIC_URL") or os.environ.get("PUBLIC_URL")
        if variables.get("STRIPE_API_BASE") is None:
            raise InstallationError("the cast works for the Stripe sandbox only, never for money")
        if public_url is None:
            raise InstallationError(
                f"nothing is served from {options.data}: run `marketplace serve`"
            )
        with Teller(Console()) as tell:
            asyncio.run(_simulate(options, takes, dict(variables), public_url, tell))
    return 0


async def _simulate(
    options: argparse.Namespace,
    takes: Any,
    variables: dict[str, str],
    public_url: str,
    tell: Teller,
) -> None:
    api = Api(public_url)
    try:
        job = await _read_job(api, options)
        clock = await _virtual_clock(variables)
        troupe = await assemble(
            await command(options.data, variables, "invite-operator"),
            options.performers,
            api=api,
            tell=tell,
            time=clock or RealClock(),
            pace=Pace() if clock else REAL_TIME,
            takes=takes,
            currency=job["currency"] if job else "USD",
        )
        await _perform(troupe, options, job)
        await _tell_result(troupe)
    except Refused as refused:
        raise PlayBroke(f"an unexpected {refused.status} {refused.code}: {refused}") from refused
    finally:
        await api.aclose()


async def _read_job(api: Api, options: argparse.Namespace) -> Any:
    """As its client sees it; None without a token."""
    token = options.token or os.environ.get("MARKETPLACE_TOKEN")
    if not token:
        return None
    if not (token.isascii() and token.isprintable()):
        raise InstallationError("the token (--token or MARKETPLACE_TOKEN) is none of ours")
    try:
        job = await api.call("GET", f"/v1/jobs/{options.job_id}", token)
    except Refused as refused:
        raise InstallationError(f"the job cannot be read with this token: {refused}") from refused
    if job["state"] != "open":
        raise InstallationError(f"the job is {job['state']}: publish it first")
    if not job["roles"].get("open"):
        raise InstallationError("the job has no open roles")
    return job


async def _virtual_clock(variables: Mapping[str, str]) -> Clock | None:
    owner_url = installation.owner_url(variables)
    if owner_url is None:
        return None
    clock = Clock(owner_url, variables["STRIPE_API_BASE"])
    try:
        await clock.move(1)
    except InstallationError:
        return None
    return clock


async def _perform(troupe: Troupe, options: argparse.Namespace, job: Any) -> None:
    tell, job_id = troupe.tell, str(options.job_id)
    await audition(troupe, _profile(job))
    tell.say(f"{name_of(troupe.performers)} are vetted, and paid for their auditions.")
    tell.busy("performers claim")
    for _ in range(CLAIMS_AT_ONCE):
        open_roles = await troupe.performers[0].board(job_id)
        if not open_roles:
            break
        works = await claim(troupe, job_id, troupe.performers[: len(open_roles)])
        add(troupe, works, _fates(troupe, works))
    if not troupe.works:
        # With the client's token it says so if the job was closed meanwhile, or others were quicker.
        await _read_job(troupe.api, options)
        raise InstallationError(
            f"job {job_id} is not on the board for this cast: it is not open, or asks for languages "
            "or skills the cast lacks; give the client's --token, so that it can prepare"
        )
    tell.say(f"{len(troupe.works)} roles are claimed; the cast goes to work.")
    await work_together(troupe, troupe.works)
    await hand_in(troupe, troupe.works)
    await review(troupe)


def _fates(troupe: Troupe, works: Sequence[Work]) -> list[str]:
    """The cast's second take is sent back, if the job allows it; all others are accepted."""
    number = 1 - len(troupe.works)
    fates = [ACCEPTED] * len(works)
    if 0 <= number < len(works) and works[number].role["retakes_max"]:
        fates[number] = RETAKE
    return fates


def _profile(job: Any) -> dict[str, Any]:
    speakers = job["specification"]["speakers"] if job else {}
    return {
        "languages": list(speakers.get("languages") or COMMON_LANGUAGES),
        "skills": list(speakers.get("skills") or COMMON_SKILLS),
        "accents": list(speakers.get("accents") or ()),
        "time_zone": "UTC",
        "work_country": "US",
    }


async def _tell_result(troupe: Troupe) -> None:
    for work in troupe.works:
        pay = await work.pay()
        state = (await work.refresh())["state"]
        if pay is None:
            troupe.tell.say(f"{work.performer.name}: claim {work.claim['id']} is {state}")
            continue
        line = Line(
            claim=work.claim["id"],
            performer=work.performer.name,
            why=work.outcome,
            seconds=pay["seconds"],
            rate_minor_per_hour=pay["rate_minor_per_hour"],
            pay_minor=pay["pay_minor"],
        )
        troupe.tell.say(
            f"{line.performer}: claim {line.claim} {line.why}, {line.seconds:,} s at "
            f"{money(line.rate_minor_per_hour, pay['currency'])} per hour = "
            f"{money(line.pay_minor, pay['currency'])}"
        )
