"""What a story came to: checked, told as a table, and as one JSON object."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

FEE_BASIS_POINTS = 1_500


def money(amount_minor: int, currency: str = "USD") -> str:
    sign = "-" if amount_minor < 0 else ""
    whole, cents = divmod(abs(amount_minor), 100)
    return f"{sign}{whole:,}.{cents:02} {currency}"


def pay_minor(seconds: int, rate_minor_per_hour: int) -> int:
    """Half up, once: worked out here again, so that the demo does not take the product's word."""
    return (2 * seconds * rate_minor_per_hour + 3_600) // 7_200


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one claim or one audition paid, as its performer reads it."""

    claim: str | None = None
    audition: str | None = None
    performer: str
    why: str
    seconds: int
    rate_minor_per_hour: int
    pay_minor: int

    @property
    def is_exact(self) -> bool:
        return self.pay_minor == pay_minor(self.seconds, self.rate_minor_per_hour)


@dataclass
class Outcome:
    """Everything that must add up. `transfers` are the sandbox's own, `spent_minor` the wallet's."""

    lines: list[Line] = field(default_factory=list)
    transfers: list[dict[str, Any]] = field(default_factory=list)
    spent_minor: int = 0
    earned_minor: int = 0
    # Held, or taken back: owed still.
    owed_minor: int = 0
    reported_minor: int = 0
    ledger: dict[str, int] = field(default_factory=dict)
    invariants: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def gross_minor(self) -> int:
        """What performers are paid: for claims by the client, for auditions by the platform."""
        return sum(line.pay_minor for line in self.lines)

    @property
    def claims_minor(self) -> int:
        return sum(line.pay_minor for line in self.lines if line.claim)

    @property
    def fees_minor(self) -> int:
        """Half up on each claim's pay; an audition carries no fee."""
        return sum(
            (2 * line.pay_minor * FEE_BASIS_POINTS + 10_000) // 20_000
            for line in self.lines
            if line.claim
        )

    def problems(self) -> list[str]:
        """What does not add up, one line each."""
        sent = sum(transfer["amount_minor"] for transfer in self.transfers)
        inexact = [line for line in self.lines if not line.is_exact]
        return [
            *(
                f"{line.claim or line.audition} pays {line.pay_minor}: not seconds by rate"
                for line in inexact
            ),
            *_unequal("sent and still owed, earned", sent + self.owed_minor, self.gross_minor),
            *_unequal("the performers read, earned", self.earned_minor, self.gross_minor),
            *_unequal("the payout report pays, the sandbox sent", self.reported_minor, sent),
            *_unequal(
                "the client spent, pay and fees",
                self.spent_minor,
                self.claims_minor + self.fees_minor,
            ),
            *(f"the ledger sums to {each} {name}" for name, each in self.ledger.items() if each),
            *(f"{name}: {each}" for name, each in self.invariants.items() if each != "ok"),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "counts": self.counts,
            "approved_seconds": sum(line.seconds for line in self.lines),
            "gross_minor": self.gross_minor,
            "fees_minor": self.fees_minor,
            "owed_minor": self.owed_minor,
            "transfers": self.transfers,
            "ledger": self.ledger,
            "invariants": self.invariants,
            "lines": [asdict(line) for line in self.lines],
            "problems": self.problems(),
        }


def _unequal(what: str, first: int, second: int) -> Iterable[str]:
    if first != second:
        yield f"{what}: {money(first)} against {money(second)}"


MOST_ROWS = 40


def table(outcome: Outcome) -> Table:
    """Who was paid what, and why: seconds by rate is pay."""
    drawn = Table(title="Who was paid what, and why", title_justify="left")
    drawn.add_column("performer")
    drawn.add_column("what became of it")
    for heading in ("seconds", "at, per hour", "pay"):
        drawn.add_column(heading, justify="right")
    performers = list(dict.fromkeys(line.performer for line in outcome.lines))
    lines = sorted(outcome.lines, key=lambda line: performers.index(line.performer))
    for line in lines[:MOST_ROWS]:
        rate = money(line.rate_minor_per_hour)
        drawn.add_row(line.performer, line.why, f"{line.seconds:,}", rate, money(line.pay_minor))
    if len(lines) > MOST_ROWS:
        drawn.add_row("…", f"and {len(lines) - MOST_ROWS} more", "", "", "")
    drawn.add_section()
    seconds = sum(line.seconds for line in lines)
    drawn.add_row("all", "", f"{seconds:,}", "", money(outcome.gross_minor))
    return drawn
