from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from marketplace.recordings import checks

Samples = np.ndarray[tuple[int, ...], np.dtype[Any]]
Record = Callable[..., Path]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def take() -> Samples:
    """Two seconds of Ana at 48 kHz: a voice-like tone at -12 dBFS in quiet room noise."""
    seconds = np.arange(96_000) / 48_000
    noise = np.random.default_rng(7).standard_normal(96_000) * 3e-4
    voice: Samples = 0.25 * np.sin(2 * np.pi * 220 * seconds) + noise
    return voice


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Write samples to a real file: `record(samples, "take.flac", subtype="PCM_24")`."""

    def write(
        samples: Samples,
        name: str = "take.wav",
        *,
        rate: int = 48_000,
        subtype: str = "PCM_24",
        **options: str,
    ) -> Path:
        path = tmp_path / name
        soundfile.write(path, samples, rate, subtype=subtype, **options)
        return path

    return write


@pytest.fixture
def take_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Put a worker in place that runs other lines than it should, as if a file had taken it over."""
    source, worker = checks.WORKER.read_text(), tmp_path / "worker.py"
    monkeypatch.setattr(checks, "WORKER", worker)

    def replace(body: str) -> None:
        worker.write_text(source.replace("    main()\n", body + "\n"))

    return replace
