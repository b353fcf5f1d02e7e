"""What the cast does together: join, audition, claim, work in lock-step, review."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from marketplace.demo.cast import Api, Operator, Performer, Refused, Reviewer, Take, Work, join
from marketplace.demo.stage import PlayBroke, Teller

AUDITION_RATE = 3_000
CLAIMS_AT_ONCE = 3

ACCEPTED = "accepted"
RETAKE = "sent back, then accepted"
REFUSED = "refused by two, paid all the same"
LEFT = "never reviewed, accepted by itself"
SILENT = "fell silent, expired, time paid"


class Time(Protocol):
    async def move(self, seconds: int) -> None: ...


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds; short where time passes by itself."""

    heartbeat: int = 60
    audition: int = 180
    preparing: tuple[int, ...] = (600, 420, 540, 360)
    performing: tuple[int, ...] = (1_800, 1_500, 1_260, 960, 1_680)
    retake: int = 480
    until_silence: int = 600


REAL_TIME = Pace(10, 15, (5, 10), (20, 15), 15, 20)


@dataclass
class Troupe:
    """Performers and reviewers, what they hold, and how often what happened."""

    api: Api
    operator: Operator
    time: Time
    pace: Pace
    takes: list[Take]
    tell: Teller
    currency: str
    reviewers: list[Reviewer] = field(default_factory=list)
    performers: list[Performer] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def take_number(self, number: int) -> Take:
        return self.takes[number % len(self.takes)]


async def assemble(code: str, performers: int, *, api: Api, tell: Teller, **given: Any) -> Troupe:
    """A new operator with the invited cast: Ana and her colleagues, Ravi and a second reviewer."""
    tell.busy("the cast joins")
    operator = Operator(**vars(await join(api, code, "Operator")))
    troupe = Troupe(api=api, operator=operator, tell=tell, **given)
    for name in ("Ravi", "Reviewer 2"):
        troupe.reviewers.append(Reviewer(**vars(await operator.invite("reviewer", name))))
    names = ["Ana", *(f"Performer {number}" for number in range(2, performers + 1))]
    troupe.performers = await asyncio.gather(*map(operator.invite_performer, names))
    return troupe


async def audition(troupe: Troupe, profile: Mapping[str, Any]) -> list[Any]:
    """Everybody applies, can be paid, auditions and is vetted; answers the decided auditions."""
    performers, tell = troupe.performers, troupe.tell
    tell.busy("performers apply and onboard at Stripe")
    await _everyone(performers, lambda performer: performer.apply(profile))
    await _everyone(performers, Performer.onboard)
    await _offer_auditions(troupe)
    await _everyone(performers, Performer.start_audition)
    for _ in range(troupe.pace.audition // troupe.pace.heartbeat or 1):
        tell.busy("performers audition")
        await troupe.time.move(min(troupe.pace.audition, troupe.pace.heartbeat))
        await _everyone(performers, Performer.keep_auditioning)
    tell.busy("audition takes are uploaded and checked")
    auditions = await asyncio.gather(
        *(
            performer.hand_audition_in(troupe.take_number(number))
            for number, performer in enumerate(performers)
        )
    )
    await _everyone(performers, troupe.reviewers[0].vet)
    return auditions


async def _everyone(performers: Sequence[Performer], do: Callable[[Performer], Any]) -> None:
    await asyncio.gather(*map(do, performers))


async def _offer_auditions(troupe: Troupe) -> None:
    """At the audition rate in force; the first one sets it."""
    first, *others = troupe.performers
    try:
        await troupe.operator.offer_audition(first, troupe.currency)
    except Refused as refused:
        if refused.code != "audition_rate_missing":
            raise
        await troupe.operator.set_audition_rate(troupe.currency, AUDITION_RATE)
        others.insert(0, first)
    await _everyone(
        others, lambda performer: troupe.operator.offer_audition(performer, troupe.currency)
    )


async def race(troupe: Troupe, job_id: str) -> Work:
    """All performers claim the same role at the same moment; answers the one claim it makes."""
    wanted = (await troupe.performers[0].board(job_id))[0]
    tries = await asyncio.gather(
        *(performer.claim(wanted["role_id"]) for performer in troupe.performers),
        return_exceptions=True,
    )
    won = []
    for performer, answer in zip(troupe.performers, tries, strict=True):
        if isinstance(answer, BaseException):
            if not isinstance(answer, Refused) or answer.code != "role_taken":
                raise answer
            troupe.counts["race_refused"] += 1
        else:
            won.append(Work(performer, wanted, answer))
    if len(won) != 1:
        raise PlayBroke(f"{len(won)} performers won the same role; exactly one may")
    return won[0]


async def claim(troupe: Troupe, job_id: str, performers: Sequence[Performer]) -> list[Work]:
    """Each of them claims a role they like; who comes second takes another one."""
    made = await asyncio.gather(*(performer.claim_something(job_id) for performer in performers))
    troupe.counts["claims_refused"] += sum(lost for _, _, lost in made)
    return [
        Work(performer, role, claimed)
        for performer, (role, claimed, _) in zip(performers, made, strict=True)
    ]


def add(troupe: Troupe, works: Sequence[Work], fates: Sequence[str]) -> None:
    """Take claims on, each with what is to become of it."""
    pace = troupe.pace
    for work, fate in zip(works, fates, strict=True):
        number = len(troupe.works)
        work.outcome, work.take = fate, troupe.take_number(number)
        work.falls_silent = fate == SILENT
        performing = pace.performing[number % len(pace.performing)]
        work.plan(
            ("prep", pace.preparing[number % len(pace.preparing)]),
            ("perform", pace.until_silence if work.falls_silent else performing),
        )
        troupe.works.append(work)


async def work_together(troupe: Troupe, works: Sequence[Work]) -> None:
    """Each performer at their claims, one after the other; all of them in lock-step, so that
    nobody's heartbeat comes late.
    """
    waiting = list(works)
    while waiting:
        shift = list({id(work.performer): work for work in reversed(waiting)}.values())
        waiting = [work for work in waiting if work not in shift]
        await _work_shift(troupe, shift)


async def _work_shift(troupe: Troupe, shift: Sequence[Work]) -> None:
    busy = [work for work in shift if work.left]
    await asyncio.gather(*(work.start_next() for work in busy))
    while busy:
        left = max(sum(seconds for _, seconds in work.left) for work in busy)
        troupe.tell.busy(f"{len(busy)} at work, {left // 60} min {left % 60} s to go")
        step = min(troupe.pace.heartbeat, *(work.left[0][1] for work in busy))
        await troupe.time.move(step)
        await asyncio.gather(*(work.after(step) for work in busy))
        busy = [work for work in busy if work.left]


async def hand_in(troupe: Troupe, works: Sequence[Work]) -> None:
    troupe.tell.busy(f"{len(works)} takes are uploaded and checked")
    await asyncio.gather(*(work.hand_in() for work in works))


async def review(troupe: Troupe) -> None:
    """Until no take waits. A take that was sent back is performed again, paid, and accepted."""
    first, second = troupe.reviewers
    while True:
        await _review_all(troupe, first)
        await _review_all(troupe, second)
        again = [work for work in troupe.works if work.outcome == RETAKE and _waits(work)]
        if not again:
            return
        for work in again:
            work.plan(("retake", troupe.pace.retake))
        await work_together(troupe, again)
        await hand_in(troupe, again)


def _waits(work: Work) -> bool:
    """Sent back, and not handed in again yet."""
    return len(work.submissions) == 1


async def _review_all(troupe: Troupe, reviewer: Reviewer) -> None:
    by_submission = {each: work for work in troupe.works for each in work.submissions}
    while (review := await reviewer.next_take()) is not None:
        troupe.tell.busy(f"{reviewer.name} reviews")
        work = by_submission.get(review["submission_id"])
        if work is not None and work.outcome == REFUSED:
            await reviewer.judge(review, "refuse", "It is read aloud, not played.")
        elif work is not None and work.outcome == RETAKE and _waits(work):
            await reviewer.judge(review, "retake", "The brief asks for relief; play it once more.")
            troupe.counts["retakes"] += 1
        else:
            await reviewer.judge(review, "accept")


def name_of(performers: Sequence[Performer]) -> str:
    """For the beginning of a sentence in the plural."""
    if len(performers) <= 2:
        return " and ".join(performer.name for performer in performers)
    return f"Ana and {len(performers) - 1} other performers"
