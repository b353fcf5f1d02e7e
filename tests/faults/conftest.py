import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Scene
from tests.faults.campaign import Ground
from tests.faults.zone import Launcher
from tests.loopback import Loopback
from tests.world import World

# Processes are watched by their handles and in /proc.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


@pytest.fixture(scope="session")
def ground(
    server: dict[str, str],
    maintenance: psycopg.Connection,
    loopback: Loopback,
    make_scene: Callable[[Callable[[World], Any]], Scene],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ground]:
    with Launcher() as launcher:
        folder = tmp_path_factory.mktemp("faults")
        made = Ground(server, maintenance, loopback, launcher, make_scene, folder)
        yield made
    made.drop_used()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the campaign came to, over all its workers."""
    told = [
        (name, json.loads(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name in {"campaign", "planted"} and getattr(report, "when", "") == "call"
    ]
    by_flow: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, found in told:
        if name == "campaign":
            total = by_flow[found["flow"]]
            total["points"] = found["points"]
            for what in ("cells", "fired", "violations", "seconds"):
                total[what] += found[what]
    if by_flow:
        columns = ("points", "cells", "fired", "violations", "seconds")
        terminalreporter.write_line(f"{'flow':20}" + "".join(f"{name:>12}" for name in columns))
        by_flow["all"] = {name: sum(total[name] for total in by_flow.values()) for name in columns}
        for flow, total in by_flow.items():
            line = "".join(f"{total[name]:>12.0f}" for name in columns)
            terminalreporter.write_line(f"{flow:20}{line}")
    bugs = [found for name, found in told if name == "planted"]
    for found in bugs:
        terminalreporter.write_line(f"planted: {found['bug']}; caught: {found['caught']}")
    if bugs:
        caught = sum(bool(found["caught"]) for found in bugs)
        terminalreporter.write_line(f"planted bugs caught: {caught} of {len(bugs)}")
