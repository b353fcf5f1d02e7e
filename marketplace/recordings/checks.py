"""Measures an uploaded file in a worker process that is allowed to die."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError

log = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("measure.py")
ANSWER_BYTES = 64 << 10
COMPLAINT_BYTES = 8 << 10

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one worker may use. Memory is address space: numpy alone reserves 100 MiB of it."""

    longest_seconds: int = 7_200
    memory_bytes: int = 256 << 20
    cpu_seconds: int = 120
    wall_seconds: float = 300


class _FromWorker(BaseModel):
    """The worker may have been taken over by the file it read, so its answer is checked, too."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Measurement(_FromWorker):
    """What was found by decoding the whole file; nothing in it is the file's own claim.

    `effective_bits` are the bits that ever change (a 16-bit take padded to 24 shows 16).
    `sample_peak_dbfs` is of the samples, not of the wave between them; None for silence.
    `clipped_samples` stand in runs of three or more at full scale, `digital_zero_percent` in runs
    of exact zeros of 10 ms or more. `pcm_sha256` is of the decoded samples, so one take saved as
    WAV and as FLAC has one hash. `confinement` names what the worker had given up.
    """

    container: Literal["WAV", "RF64", "FLAC"]
    codec: str = Field(max_length=20)
    subtype: str = Field(max_length=20)
    sample_rate_hz: int = Field(gt=0)
    channels: int = Field(gt=0)
    frames: int = Field(gt=0)
    duration_seconds: float = Field(gt=0, allow_inf_nan=False)
    effective_bits: int = Field(ge=0, le=32)
    sample_peak_dbfs: float | None = Field(allow_inf_nan=False)
    clipped_samples: int = Field(ge=0)
    clipped_ppm: Share
    digital_zero_percent: Share
    pcm_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tools: dict[str, Annotated[str, Field(max_length=40)]] = Field(max_length=10)
    confinement: list[Literal["limits", "network", "files"]]


class _Refusal(_FromWorker):
    code: str = Field(pattern=r"^[a-z_]{1,40}$")
    message: str = Field(max_length=200)


class _Answer(_FromWorker):
    measured: Measurement | None = None
    refused: _Refusal | None = None


@dataclass(frozen=True)
class Unreadable:
    """Why a file has no measurement. `retryable` when our worker, not the file, may be at fault."""

    reason_code: str
    message: str
    retryable: bool = False


CHECKER_FAILED = Unreadable("checker_failed", "Our check broke off; it is tried again.", True)
TOO_MUCH_MEMORY = Unreadable("too_much_memory", "Reading the file needs too much memory.")
TOO_MUCH_TIME = Unreadable("too_much_time", "Reading the file takes too much computing.")
TIMED_OUT = Unreadable("timed_out", "Our check did not finish in time; it is tried again.", True)
DECODER_CRASHED = Unreadable("decoder_crashed", "The sound in the file crashes its decoder.")

DEATHS: dict[int, Unreadable] = {
    signal.SIGXCPU: TOO_MUCH_TIME,
    signal.SIGSEGV: DECODER_CRASHED,
    signal.SIGBUS: DECODER_CRASHED,
    signal.SIGFPE: DECODER_CRASHED,
    signal.SIGILL: DECODER_CRASHED,
    signal.SIGABRT: DECODER_CRASHED,
}


async def measure(path: Path, *, limits: Limits | None = None) -> Measurement | Unreadable:
    """Measure the file in a confined worker; as many run at once as there are cores.

    Every death of the worker becomes an `Unreadable`; a timeout or a cancellation kills it. Only
    a file that cannot be opened raises (`OSError`).
    """
    limits = limits or Limits()
    with path.open("rb") as file:
        async with _slots():
            return await _run_worker(file, limits)


_slots_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
    WeakKeyDictionary()
)


def _slots() -> asyncio.Semaphore:
    return _slots_of_loop.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_cores()))


def _cores() -> int:
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


async def _run_worker(file: BinaryIO, limits: Limits) -> Measurement | Unreadable:
    worker = await _start_worker(file, limits)
    try:
        async with asyncio.timeout(limits.wall_seconds):
            answer, complaint = await asyncio.gather(
                _read_at_most(ANSWER_BYTES, worker.stdout, worker),
                _read_at_most(COMPLAINT_BYTES, worker.stderr, worker),
            )
            # Unlike wait(), this also ends when a killed worker left something in its pipes.
            await worker.communicate()
    except TimeoutError:
        return TIMED_OUT
    finally:
        await asyncio.shield(_end(worker))
    if answer is None or complaint is None:
        return _failed("it flooded its output", answer or complaint or b"")
    return _judge_death(worker.returncode, complaint) if worker.returncode else _understand(answer)


async def _start_worker(file: BinaryIO, limits: Limits) -> asyncio.subprocess.Process:
    """Start the worker with the file as its input, none of our environment and none of our files.

    `-I` ignores PYTHON* variables and keeps our folders off its import path, `-B` writes no
    bytecode; one thread, because each of OpenBLAS' threads reserves tens of MiB.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-B", str(WORKER)),
        *(str(limits.longest_seconds), str(limits.memory_bytes), str(limits.cpu_seconds)),
        stdin=file,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"OPENBLAS_NUM_THREADS": "1"},
        cwd="/",
        start_new_session=True,
    )


async def _read_at_most(
    limit_bytes: int, stream: asyncio.StreamReader | None, worker: asyncio.subprocess.Process
) -> bytes | None:
    """Read to the end; kill the worker and answer None when it writes more than it may."""
    assert stream is not None
    text = bytearray()
    while piece := await stream.read(limit_bytes):
        text += piece
        if len(text) > limit_bytes:
            _kill(worker)
            return None
    return bytes(text)


async def _end(worker: asyncio.subprocess.Process) -> None:
    """Kill what still runs of the worker, collect it, and drain its pipes so that they close."""
    _kill(worker)
    await worker.communicate()


def _kill(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def _judge_death(status: int, complaint: bytes) -> Unreadable:
    return DEATHS.get(-status) or _failed(f"it ended with {status}", complaint)


def _understand(answer: bytes) -> Measurement | Unreadable:
    try:
        found = _Answer.model_validate_json(answer)
    except ValidationError:
        return _failed("its answer makes no sense", answer)
    if found.refused:
        return Unreadable(found.refused.code, found.refused.message)
    return found.measured or _failed("its answer is empty", answer)


def _failed(what: str, output: bytes) -> Unreadable:
    log.warning("the audio check failed: %s: %r", what, output[-2_000:])
    return CHECKER_FAILED
