"""The product in processes of its own, on a story's database and sandbox."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.world import World

PROJECT = Path(__file__).parents[1]
END_SECONDS = 120


def environment(world: World) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, **world.environment, "PYTHONPATH": str(PROJECT)}


@contextmanager
def served(world: World, data: Path) -> Iterator[str]:
    """`marketplace serve` on a free port; answers its address."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "marketplace", "serve", "--port", "0", "--no-sweeps"),
            *("--data", str(data)),
        ],
        env=environment(world),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait(END_SECONDS)
        process.stdout.close()
