"""Real processes at a small price: one imports the product once, and forks for each that is wanted.

`forked(world, "tests.payouts.killed_sender", "after", "intent")` runs that module's `main` in a
process of its own, on the world's database and sandbox, as `python -m` would in two seconds.
"""

import asyncio
import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from tests.processes import END_SECONDS, PROJECT, environment
from tests.world import World


class Forked:
    """What `subprocess.Popen` would be of it, as far as stories ask."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it lives."""
        status = _ask(poll=self.pid)
        return (
            None if status is None or os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        )

    def wait(self, seconds: float = END_SECONDS) -> int:
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"process {self.pid} goes on"
            time.sleep(0.01)
        return code

    def wait_until_stopped(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        while (status := _ask(poll=self.pid)) is None or not os.WIFSTOPPED(status):
            assert status is None, f"process {self.pid} ended with {status}"
            assert time.monotonic() < deadline, f"process {self.pid} goes on"
            time.sleep(0.01)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Only while it is not waited for yet: its number may be another's by then."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def forked(world: World, module: str, *where: str) -> Forked:
    return Forked(_ask(module=module, where=where, environment=environment(world)))


@functools.cache
def _launcher() -> subprocess.Popen[str]:
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(launcher.kill)
    return launcher


def _ask(**words: Any) -> Any:
    launcher = _launcher()
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    print(json.dumps(words), file=launcher.stdin, flush=True)
    return json.loads(launcher.stdout.readline())


# The launcher's side. It ends with its input.

ENDED: dict[int, int] = {}


def main() -> None:
    importlib.import_module("marketplace.app")
    for line in sys.stdin:
        words = json.loads(line)
        answer = _status(words["poll"]) if "poll" in words else _fork(**words)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _status(pid: int) -> int | None:
    if pid not in ENDED:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if not found:
            return None
        if os.WIFSTOPPED(status):
            return status
        ENDED[pid] = status
    return ENDED[pid]


def _fork(module: str, where: list[str], environment: dict[str, str]) -> int:
    play = importlib.import_module(module).main
    if child := os.fork():
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.environ.clear()
        os.environ.update(environment)
        asyncio.run(play(*where))
        code = 0
    except Exception:  # noqa: BLE001 - told where the story's reader sees it
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
