"""A row in the tree, with what its links led to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Row = Mapping[str, Any]


class Direction(StrEnum):
    DOWN = "down"  # towards the seconds and the rate
    UP = "up"  # towards Stripe


@dataclass
class Node:
    table: str
    row: Row
    # Whether it leads to the seconds or to Stripe; None where one asked.
    direction: Direction | None = None
    problems: list[str] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)
    # All that its links led to, by table and id, whether it stands below or elsewhere in the tree.
    linked: dict[str, dict[Any, Row]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.problems and all(child.complete for child in self.children)

    def leads_to(self, table: str) -> list[Row]:
        return list(self.linked.get(table, {}).values())
