"""Stories of workers that die, hang, flood, or are taken over by the file they read."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marketplace.recordings import checks
from marketplace.recordings.checks import Limits, Measurement, Unreadable, measure

Samples = np.ndarray[tuple[int, ...], np.dtype[Any]]
Record = Callable[..., Path]

pytestmark = pytest.mark.anyio


async def reason(path: Path) -> str:
    found = await measure(path)
    assert isinstance(found, Unreadable), found
    return found.reason_code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("    import os; os.abort()", "decoder_crashed"),
        ("    import os; os.kill(os.getpid(), 11)", "decoder_crashed"),
        ("    import os; os.kill(os.getpid(), 9)", "checker_failed"),
        ("    raise RuntimeError", "checker_failed"),
        ("    pass", "checker_failed"),
        ("    print('{')", "checker_failed"),
        ("    print('{}')", "checker_failed"),
        ('    print(\'{"measured": {"frames": "many"}}\')', "checker_failed"),
        ('    print(\'{"refused": {"code": "<b>", "message": ""}}\')', "checker_failed"),
        ("    while True: print('x' * 9_999)", "checker_failed"),
        ("    while True: print('x' * 9_999, file=sys.stderr)", "checker_failed"),
    ],
)
async def test_every_death_of_the_worker_has_a_reason(
    take_over: Callable[[str], None], record: Record, take: Samples, body: str, code: str
) -> None:
    take_over(body)
    assert await reason(record(take)) == code


async def test_memory_bomb_dies_and_the_parent_lives(
    take_over: Callable[[str], None], record: Record, take: Samples
) -> None:
    take_over("    examine = lambda *_, **__: bytearray(1 << 40)\n    main()")
    assert await reason(record(take)) == "too_much_memory"
    take_over("    main()")
    assert isinstance(await measure(record(take)), Measurement)


async def test_memory_limit_below_what_the_libraries_need_is_no_fault_of_the_file(
    record: Record, take: Samples
) -> None:
    found = await measure(record(take), limits=Limits(memory_bytes=40 << 20))
    assert found == checks.CHECKER_FAILED
    assert checks.CHECKER_FAILED.retryable


async def test_worker_sees_no_secret_and_no_file_of_ours(
    monkeypatch: pytest.MonkeyPatch,
    take_over: Callable[[str], None],
    record: Record,
    take: Samples,
) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_live_secret")
    take_over(
        "    seen = [*os.environ, *os.listdir('/proc/self/fd')]\n"
        "    print(json.dumps({'refused': {'code': 'seen', 'message': ' '.join(seen)}}))"
    )
    with record(take).open():
        found = await measure(record(take, "other.wav"))
    assert isinstance(found, Unreadable)
    assert set(found.message.split()) <= {"0", "1", "2", "3", "LC_CTYPE", "OPENBLAS_NUM_THREADS"}


@pytest.mark.parametrize(
    ("given_up", "attempt"),
    [
        ("files", "open('/etc/hostname')"),
        ("files", "os.listdir('/')"),
        ("network", "socket.create_connection(('127.0.0.1', {port}), timeout=5)"),
        ("limits", "open('/tmp/written', 'w').write('x' * 99)"),
    ],
)
async def test_what_the_worker_gave_up_is_refused_by_the_system(
    take_over: Callable[[str], None], record: Record, take: Samples, given_up: str, attempt: str
) -> None:
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    take_over(
        "    import socket\n"
        "    held = confine(memory_bytes=256 << 20, cpu_seconds=5) + give_up_files()\n"
        f"    try: {attempt.format(port=port)}\n"
        "    except OSError: outcome = 'refused'\n"
        "    else: outcome = 'done'\n"
        "    print(json.dumps({'refused': {'code': outcome, 'message': ' '.join(held)}}))"
    )
    found = await measure(record(take))
    listening.close()
    assert isinstance(found, Unreadable)
    if given_up not in found.message.split():
        pytest.skip(f"this system cannot take {given_up} away")
    assert found.reason_code == "refused"


@pytest.fixture
def sleeper(take_over: Callable[[str], None], tmp_path: Path) -> Path:
    """A worker that says who it is and then sleeps."""
    pid = tmp_path / "pid"
    take_over(f"    import time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    return pid


def gone(pid: Path) -> bool:
    return not Path(f"/proc/{pid.read_text()}").exists()


async def until_written(file: Path) -> None:
    async with asyncio.timeout(10):
        # Another process writes it: there is no event to wait for.
        while not await asyncio.to_thread(_has_text, file):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _has_text(file: Path) -> bool:
    return file.exists() and file.read_text() != ""


async def test_worker_that_hangs_is_killed(sleeper: Path, record: Record, take: Samples) -> None:
    started = time.monotonic()
    assert await measure(record(take), limits=Limits(wall_seconds=1)) == checks.TIMED_OUT
    assert time.monotonic() - started < 10
    assert gone(sleeper)


async def test_cancelled_check_kills_its_worker(
    sleeper: Path, record: Record, take: Samples
) -> None:
    check = asyncio.create_task(measure(record(take)))
    await until_written(sleeper)
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    assert gone(sleeper)


async def test_only_as_many_workers_run_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, record: Record, take: Samples
) -> None:
    running, most = 0, 0
    start = checks._run_worker  # noqa: SLF001

    async def counted(*arguments: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await start(*arguments)  # type: ignore[arg-type]
        finally:
            running -= 1

    monkeypatch.setattr(checks, "_run_worker", counted)
    path = record(take)
    found = await asyncio.gather(*(measure(path) for _ in range(8)))
    assert len({str(one) for one in found}) == 1
    assert most <= len(os.sched_getaffinity(0))
