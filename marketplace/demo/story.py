"""What the story is made of, and what has come of it so far."""

from dataclasses import dataclass, field
from typing import Any

from marketplace.demo.cast import Person
from marketplace.demo.outcome import Outcome
from marketplace.demo.stage import Stage, Teller
from marketplace.demo.troupe import Troupe


@dataclass
class Story:
    """Acme pays, Finn and Fay are finance; the troupe does the rest."""

    stage: Stage
    tell: Teller
    tasks: int
    tier: str
    troupe: Troupe
    acme: Person
    finn: Person
    fay: Person
    outcome: Outcome = field(default_factory=Outcome)
    deposit_minor: int = 0
    job: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
