"""Judges a measurement by the gates of a job's tier. Pure: the same numbers, the same verdict.

Sample peak stands in for true peak, which needs oversampling and comes with the loudness checks.
Gates are only ever added under a new version; an appeal replays the version that was used.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from marketplace.recordings.checks import Measurement

GATES_VERSION = "2026-11-1"
SHORTEST_SECONDS = 1.0


class Verdict(StrEnum):
    """From best to worst. `look` asks a person; `retake` is paid."""

    PASS = "pass"  # noqa: S105
    LOOK = "look"
    RETAKE = "retake"


class Tier(StrEnum):
    STUDIO = "studio"
    PHONE = "phone"


@dataclass(frozen=True)
class Band:
    """Values from `at_least` to `at_most`, both included; None leaves a side open."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def __str__(self) -> str:
        low, high = self.at_least, self.at_most
        if low is not None and high is not None:
            return f"{low:g} to {high:g}" if low != high else f"exactly {low:g}"
        return f"at least {low:g}" if low is not None else f"at most {high:g}"


@dataclass(frozen=True)
class Gate:
    """One metric's bands: outside `looks` is a retake, but with `only_with` only when that
    metric does not pass either.
    """

    metric: str
    unit: str
    passes: Band
    looks: Band
    only_with: str | None = None


@dataclass(frozen=True)
class GateResult:
    metric: str
    value: float | None
    unit: str
    verdict: Verdict
    pass_limit: str
    look_limit: str


GATES: dict[str, dict[Tier, tuple[Gate, ...]]] = {
    "2026-11-1": {
        Tier.STUDIO: (
            Gate("sample_rate_hz", "Hz", Band(48_000), Band(44_100)),
            Gate("effective_bits", "bits", Band(20), Band(16)),
            Gate("channels", "channels", Band(1, 1), Band(1, 1)),
            Gate("clipped_ppm", "ppm", Band(None, 10), Band(None, 100)),
            Gate("sample_peak_dbfs", "dBFS", Band(None, -1), Band(None, 0), "clipped_ppm"),
            Gate("digital_zero_percent", "%", Band(None, 0.5), Band(None, 2)),
        ),
        # Phones record 16 bits, suppress noise, and often store one microphone on two channels.
        Tier.PHONE: (
            Gate("sample_rate_hz", "Hz", Band(44_100), Band(16_000)),
            Gate("effective_bits", "bits", Band(16), Band(12)),
            Gate("channels", "channels", Band(1, 1), Band(1, 2)),
            Gate("clipped_ppm", "ppm", Band(None, 50), Band(None, 500)),
            Gate("sample_peak_dbfs", "dBFS", Band(None, -0.1), Band(None, 0), "clipped_ppm"),
            Gate("digital_zero_percent", "%", Band(None, 5), Band(None, 20)),
        ),
    },
}


def report(
    measurement: Measurement,
    tier: Tier,
    *,
    longest_seconds: float,
    gates_version: str = GATES_VERSION,
) -> dict[str, Any]:
    """All that an appeal needs to replay the verdict, ready for JSON."""
    results = judge(measurement, tier, longest_seconds=longest_seconds, gates_version=gates_version)
    return {
        "gates_version": gates_version,
        "tier": str(tier),
        "longest_seconds": longest_seconds,
        "verdict": str(worst(results)),
        "results": [asdict(result) | {"verdict": str(result.verdict)} for result in results],
        "measurement": measurement.model_dump(mode="json"),
    }


def judge(
    measurement: Measurement,
    tier: Tier,
    *,
    longest_seconds: float,
    gates_version: str = GATES_VERSION,
) -> list[GateResult]:
    """One result per metric, in the order of the gates; `KeyError` for a version never used."""
    duration = Band(SHORTEST_SECONDS, longest_seconds)
    gates = (*GATES[gates_version][tier], Gate("duration_seconds", "s", duration, duration))
    verdicts = {gate.metric: _verdict(gate, measurement) for gate in gates}
    return [_result(gate, measurement, verdicts) for gate in gates]


def worst(results: list[GateResult]) -> Verdict:
    """The verdict on the whole recording."""
    return max((result.verdict for result in results), key=list(Verdict).index)


def _result(gate: Gate, measurement: Measurement, verdicts: dict[str, Verdict]) -> GateResult:
    verdict = verdicts[gate.metric]
    excused = gate.only_with is not None and verdicts[gate.only_with] is Verdict.PASS
    if verdict is Verdict.RETAKE and excused:
        verdict = Verdict.LOOK
    return GateResult(
        metric=gate.metric,
        value=getattr(measurement, gate.metric),
        unit=gate.unit,
        verdict=verdict,
        pass_limit=str(gate.passes),
        look_limit=str(gate.looks),
    )


def _verdict(gate: Gate, measurement: Measurement) -> Verdict:
    value = getattr(measurement, gate.metric)
    # Only the peak of perfect silence has no value, and digital zero already judges that.
    if value is None or gate.passes.holds(value):
        return Verdict.PASS
    return Verdict.LOOK if gate.looks.holds(value) else Verdict.RETAKE
