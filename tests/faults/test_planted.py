"""The zero of the campaign counts because the same campaign catches what is wrong on purpose."""

import json
from collections.abc import Callable

import pytest

from tests.faults.campaign import Ground, cells_of, probe, run, warm
from tests.faults.planted import BUGS


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(
    ground: Ground, name: str, record_property: Callable[[str, object], None]
) -> None:
    bug = BUGS[name]
    warm(ground, bug.flow, bug.seed)
    points = probe(ground, bug.flow, bug.seed).points
    cells = [
        cell
        for cell in cells_of(bug.flow, bug.seed, points)
        if cell.kind in bug.kinds and cell.point.label.startswith(bug.labels)
    ]
    caught = ""
    for cell in cells:
        ran = run(ground, cell, bugs=(name,))
        if wrong := [
            *(f"the database refuses it: {each}" for each in ran.refusals),
            *ran.violations,
        ]:
            caught = f"{cell}: {' '.join(wrong[0].split())}"
            break
    record_property("planted", json.dumps({"bug": name, "caught": caught}))
    assert caught, f"in {len(cells)} runs"
