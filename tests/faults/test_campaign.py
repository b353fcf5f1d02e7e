"""Every flow is broken at its points, and ends as if nothing had been.

`make test` plays a sample of the cells; `make faults` all of them, each several times with other
amounts. `make faults CELL="payout:3:POST /v1/transfers:1:apply_then_drop"` plays one cell again.
"""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults.campaign import Cell, Ground, cells_of, probe, run, warm
from tests.faults.flows import FLOWS

# 0 plays the sample.
TIMES = int(os.environ.get("FAULTS_TIMES", "0"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))
CELL = os.environ.get("FAULTS_CELL", "")
ONLY = os.environ.get("FAULTS_FLOWS", "").split()
# So that workers have something to share.
PARTS = 4
# What happens beside others may come in another order once; a cell that never fires says nothing.
FIRED = 0.9
SAMPLE = int(os.environ.get("FAULTS_SAMPLE", "2"))


@dataclass(frozen=True)
class Share:
    """Every `parts`th cell of a flow with a seed; as many of them as `most` says."""

    flow: str
    seed: int
    part: int = 0
    parts: int = 1
    most: int = SAMPLE

    def __str__(self) -> str:
        return f"{self.flow}-{self.seed}-{self.part + 1}of{self.parts}"

    def of(self, cells: list[Cell]) -> list[Cell]:
        if CELL:
            return [cell for cell in cells if str(cell) == CELL]
        chosen = cells[self.part :: self.parts]
        order = random.Random(self.seed)  # noqa: S311 - played again by whoever knows the seed
        return order.sample(chosen, min(self.most, len(chosen)))


def shares() -> list[Share]:
    if CELL:
        flow, seed, *_ = CELL.split(":")
        return [Share(flow, int(seed))]
    flows = ONLY or list(FLOWS)
    if TIMES:
        return [
            Share(flow, SEED + time_, part, PARTS, most=100_000)
            for time_ in range(TIMES)
            for flow in flows
            for part in range(PARTS)
        ]
    return [Share(flow, SEED) for flow in flows]


@pytest.mark.parametrize("share", shares(), ids=str)
def test_it_ends_well_whatever_fails(
    ground: Ground, share: Share, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    warm(ground, share.flow, share.seed)
    probing = probe(ground, share.flow, share.seed)
    assert probing.violations == [], "even though nothing failed"
    assert {point.what for point in probing.points} >= {"sql", "commit"}, "nothing can be injected"
    violations, fired = [], 0
    cells = share.of(cells_of(share.flow, share.seed, probing.points))
    for cell in cells:
        ran = run(ground, cell)
        fired += ran.fired
        violations += [f"{cell}: {violation}" for violation in ran.violations]
    told = {
        "flow": share.flow,
        "points": len(probing.points),
        "cells": len(cells),
        "fired": fired,
        "violations": len(violations),
        "seconds": time.monotonic() - began,
    }
    record_property("campaign", json.dumps(told))
    assert violations == []
    assert cells, "there is no such cell"
    # Of two or three, too, one may be such a cell.
    often_enough = fired >= FIRED * len(cells) - 1
    assert fired, "nothing was tried"
    assert often_enough, "the points moved between the probing run and the others"
