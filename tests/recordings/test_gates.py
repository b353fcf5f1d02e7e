"""Stories of takes at, inside and outside each gate."""

import json
from pathlib import Path
from typing import Any

import pytest

from marketplace import recordings
from marketplace.recordings.checks import Measurement, measure
from marketplace.recordings.gates import (
    GATES,
    GATES_VERSION,
    GateResult,
    Tier,
    Verdict,
    judge,
    report,
    worst,
)

CLEAN = Measurement(
    container="WAV",
    codec="WAV",
    subtype="PCM_24",
    sample_rate_hz=48_000,
    channels=1,
    frames=480_000,
    duration_seconds=10.0,
    effective_bits=24,
    sample_peak_dbfs=-6.0,
    clipped_samples=0,
    clipped_ppm=0.0,
    digital_zero_percent=0.0,
    pcm_sha256="0" * 64,
    tools={"numpy": "2"},
    confinement=["limits"],
)


def judged(changes: dict[str, Any], tier: Tier = Tier.STUDIO) -> dict[str, GateResult]:
    results = judge(CLEAN.model_copy(update=changes), tier, longest_seconds=600)
    return {result.metric: result for result in results}


@pytest.mark.parametrize("tier", Tier)
def test_clean_take_passes_every_gate(tier: Tier) -> None:
    results = judged({}, tier)
    assert {result.verdict for result in results.values()} == {Verdict.PASS}
    assert worst(list(results.values())) is Verdict.PASS


STUDIO_VERDICTS = [
    ("sample_rate_hz", 96_000, "pass"),
    ("sample_rate_hz", 47_999, "look"),
    ("sample_rate_hz", 44_100, "look"),
    ("sample_rate_hz", 44_099, "retake"),
    ("effective_bits", 20, "pass"),
    ("effective_bits", 19, "look"),
    ("effective_bits", 16, "look"),
    ("effective_bits", 15, "retake"),
    ("channels", 2, "retake"),
    ("clipped_ppm", 10.0, "pass"),
    ("clipped_ppm", 10.1, "look"),
    ("clipped_ppm", 100.0, "look"),
    ("clipped_ppm", 100.1, "retake"),
    ("sample_peak_dbfs", -1.0, "pass"),
    ("sample_peak_dbfs", -0.9, "look"),
    ("sample_peak_dbfs", 0.0, "look"),
    ("sample_peak_dbfs", None, "pass"),
    ("digital_zero_percent", 0.5, "pass"),
    ("digital_zero_percent", 2.0, "look"),
    ("digital_zero_percent", 2.1, "retake"),
    ("duration_seconds", 1.0, "pass"),
    ("duration_seconds", 0.99, "retake"),
    ("duration_seconds", 600.0, "pass"),
    ("duration_seconds", 600.1, "retake"),
]


@pytest.mark.parametrize(("metric", "value", "verdict"), STUDIO_VERDICTS)
def test_studio_gate(metric: str, value: float | None, verdict: str) -> None:
    results = judged({metric: value})
    assert (results[metric].verdict, results[metric].value) == (verdict, value)
    assert worst(list(results.values())) == verdict


PHONE_VERDICTS = [
    ("sample_rate_hz", 44_100, "pass"),
    ("sample_rate_hz", 16_000, "look"),
    ("sample_rate_hz", 8_000, "retake"),
    ("effective_bits", 16, "pass"),
    ("channels", 2, "look"),
    ("channels", 3, "retake"),
    ("digital_zero_percent", 20.0, "look"),
]


@pytest.mark.parametrize(("metric", "value", "verdict"), PHONE_VERDICTS)
def test_phone_gate(metric: str, value: float, verdict: str) -> None:
    assert judged({metric: value}, Tier.PHONE)[metric].verdict == verdict


def test_peak_over_full_scale_without_clipping_is_looked_at() -> None:
    assert judged({"sample_peak_dbfs": 2.0})["sample_peak_dbfs"].verdict is Verdict.LOOK


def test_peak_over_full_scale_with_clipping_is_a_retake() -> None:
    results = judged({"sample_peak_dbfs": 2.0, "clipped_ppm": 50.0})
    assert results["sample_peak_dbfs"].verdict is Verdict.RETAKE


def test_limits_are_told_in_words() -> None:
    results = judged({})
    assert results["sample_rate_hz"].pass_limit == "at least 48000"
    assert results["clipped_ppm"].look_limit == "at most 100"
    assert results["channels"].pass_limit == "exactly 1"
    assert results["duration_seconds"].pass_limit == "1 to 600"


def test_report_survives_json_and_replays() -> None:
    first = report(CLEAN, Tier.STUDIO, longest_seconds=600)
    kept = json.loads(json.dumps(first, allow_nan=False))
    again = report(
        Measurement.model_validate(kept["measurement"]),
        Tier(kept["tier"]),
        longest_seconds=kept["longest_seconds"],
        gates_version=kept["gates_version"],
    )
    assert again == kept
    assert kept["gates_version"] == GATES_VERSION


def test_gates_never_used_are_refused() -> None:
    with pytest.raises(KeyError):
        judge(CLEAN, Tier.STUDIO, longest_seconds=600, gates_version="1999-1-1")


def test_every_version_judges_every_tier() -> None:
    assert all(set(gates) == set(Tier) for gates in GATES.values())


DEMO_SCENES = sorted(Path(recordings.__file__).parents[1].glob("demo_audio/*.flac"))


@pytest.mark.anyio
@pytest.mark.parametrize("path", DEMO_SCENES, ids=lambda path: path.stem)
async def test_demo_scene_passes_the_studio_gates(path: Path) -> None:
    found = await measure(path)
    assert isinstance(found, Measurement)
    assert 8 <= found.duration_seconds <= 15
    assert worst(judge(found, Tier.STUDIO, longest_seconds=15)) is Verdict.PASS


def test_there_are_two_small_demo_scenes() -> None:
    assert len(DEMO_SCENES) == 2
    assert all(path.stat().st_size < 500_000 for path in DEMO_SCENES)
