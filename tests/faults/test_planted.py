"""The zero of the campaign counts because the same campaign catches what is wrong on purpose."""

import json
from collections.abc import Callable

import pytest

from tests.faults.campaign import Ground, Ran, cells_of, probe, run, warm
from tests.faults.planted import BUGS, Bug
from tests.faults.test_campaign import TIMES


# All of them, or a sample.
@pytest.mark.parametrize("name", list(BUGS)[:: 1 if TIMES else 7])
def test_a_planted_bug_is_caught(
    ground: Ground, name: str, record_property: Callable[[str, object], None]
) -> None:
    caught = hunt(ground, name, BUGS[name])
    record_property("planted", json.dumps({"bug": name, "caught": caught}))
    assert caught


def hunt(ground: Ground, name: str, bug: Bug) -> str:
    """What says first that something is wrong, and in which run."""
    warm(ground, bug.flow, bug.seed)
    probing = probe(ground, bug.flow, bug.seed, bugs=(name,))
    if caught := wrong(probing):
        return f"{bug.flow}, though nothing fails: {caught}"
    for cell in cells_of(bug.flow, bug.seed, probing.points):
        shows = cell.kind in bug.kinds and cell.point.label.startswith(bug.labels)
        if shows and (caught := wrong(run(ground, cell, bugs=(name,)))):
            return f"{cell}: {caught}"
    return ""


def wrong(ran: Ran) -> str:
    refused = [f"the database refuses it: {each}" for each in ran.refusals]
    first = next(iter([*refused, *ran.violations]), "")
    return " ".join(first.split())[:LONGEST]


LONGEST = 300
