"""Bugs on purpose, to see that the campaign finds them: patched in by name, in its processes alone."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    plant: Callable[[], None]


BUGS: dict[str, Bug] = {}
