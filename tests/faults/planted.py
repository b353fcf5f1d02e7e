"""Bugs on purpose, to see that the campaign finds them: patched in by name, in its processes alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bug:
    plant: Callable[[], None]


BUGS: dict[str, Bug] = {}


def replace(where: Any, name: str, by: Any) -> None:
    """In this process alone, which is one of the campaign's."""
    assert hasattr(where, name), name
    setattr(where, name, by)
