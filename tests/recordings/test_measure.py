"""Stories of files that come from honest recorders, broken ones, and attackers."""

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from marketplace.recordings import checks
from marketplace.recordings.checks import Limits, Measurement, Unreadable, measure

Samples = np.ndarray[tuple[int, ...], np.dtype[Any]]
Record = Callable[..., Path]

pytestmark = pytest.mark.anyio

HOUR_SECONDS = 3_600


async def measured(path: Path, limits: Limits | None = None) -> Measurement:
    found = await measure(path, limits=limits)
    assert isinstance(found, Measurement), found
    return found


async def reason(path: Path, limits: Limits | None = None) -> str:
    found = await measure(path, limits=limits)
    assert isinstance(found, Unreadable), found
    return found.reason_code


async def test_clean_wav_is_measured(record: Record, take: Samples) -> None:
    found = await measured(record(take))
    assert (found.container, found.subtype) == ("WAV", "PCM_24")
    assert (found.sample_rate_hz, found.channels, found.frames) == (48_000, 1, 96_000)
    assert found.duration_seconds == 2.0
    assert found.effective_bits == 24
    assert found.sample_peak_dbfs == pytest.approx(-12, abs=0.2)
    assert (found.clipped_samples, found.digital_zero_percent) == (0, 0)
    assert set(found.tools) == {"python", "numpy", "soundfile", "libsndfile"}


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "FLAC"])
async def test_one_take_has_one_hash_in_every_container(
    record: Record, take: Samples, container: str
) -> None:
    whole: Samples = np.round(take * 2**23).astype(np.int32) << 8
    found = await measured(record(whole, "take.bin", format=container))
    assert found.pcm_sha256 == hashlib.sha256(whole.astype("<i4").tobytes()).hexdigest()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
async def test_every_sample_format_shows_its_bits(
    record: Record, take: Samples, subtype: str
) -> None:
    bits = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 24, "DOUBLE": 32}
    assert (await measured(record(take, subtype=subtype))).effective_bits == bits[subtype]


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("padding", [0, 0x80])
async def test_16_bits_padded_to_24_show_16(
    record: Record, take: Samples, subtype: str, padding: int
) -> None:
    padded: Samples = (np.round(take * 2**15).astype(np.int32) << 16) | padding << 8
    samples: Samples = padded / 2**31 if subtype == "FLOAT" else padded
    assert (await measured(record(samples, subtype=subtype))).effective_bits == 16


async def test_clipped_take_is_counted(record: Record, take: Samples) -> None:
    loud = np.clip(take * 6, -1, 1)
    found = await measured(record(loud))
    assert found.clipped_ppm > 10_000
    assert found.sample_peak_dbfs == pytest.approx(0, abs=1e-5)


async def test_lone_full_scale_samples_are_no_clipping(record: Record, take: Samples) -> None:
    take[1000:90_000:100] = 1.0
    take[1001:90_000:100] = 1.0
    assert (await measured(record(take))).clipped_samples == 0


async def test_runs_are_counted_across_block_borders(record: Record, take: Samples) -> None:
    border = 1 << 16
    take[border - 2 : border + 2] = 1.0
    take[-3:] = -1.0
    take[:3] = 1.0
    take[border - 1000 : border - 500] = 0.0
    take[2000:2400] = 0.0
    found = await measured(record(take))
    assert found.clipped_samples == 10
    assert found.digital_zero_percent == pytest.approx(500 / 960)


async def test_stereo_and_8_khz_are_measured_as_they_are(record: Record, take: Samples) -> None:
    found = await measured(record(np.column_stack([take, take]), rate=8_000))
    assert (found.channels, found.sample_rate_hz) == (2, 8_000)


async def test_perfect_silence_has_no_peak(record: Record) -> None:
    found = await measured(record(np.zeros(48_000)))
    assert found.sample_peak_dbfs is None
    assert (found.effective_bits, found.digital_zero_percent) == (0, 100)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
async def test_samples_that_are_no_numbers_are_refused(
    record: Record, take: Samples, bad: float
) -> None:
    take[70_000] = bad
    assert await reason(record(take, subtype="FLOAT")) == "non_finite"


async def test_huge_floats_are_measured(record: Record, take: Samples) -> None:
    take[5] = 1e30
    found = await measured(record(take, subtype="FLOAT"))
    assert found.sample_peak_dbfs == pytest.approx(600)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["take.wav", "take.flac"])
async def test_truncated_file_is_refused(
    record: Record, take: Samples, name: str, kept: float
) -> None:
    path = record(take, name)
    os.truncate(path, int(path.stat().st_size * kept))
    assert await reason(path) in {"truncated", "corrupt"}


@pytest.mark.parametrize("size", range(1, 60, 7))
async def test_stumps_are_refused(record: Record, take: Samples, size: int) -> None:
    for name in ("take.wav", "take.flac"):
        path = record(take, name)
        os.truncate(path, size)
        assert await reason(path) in {"truncated", "corrupt", "unknown_type"}


async def test_flac_with_a_flipped_bit_is_refused(record: Record, take: Samples) -> None:
    path = record(take, "take.flac")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert await reason(path) in {"corrupt", "truncated"}


async def test_flac_whose_checksum_is_of_another_take_is_refused(
    record: Record, take: Samples
) -> None:
    path = record(take, "take.flac")
    damaged = bytearray(path.read_bytes())
    damaged[26:42] = hashlib.md5(b"another", usedforsecurity=False).digest()
    path.write_bytes(damaged)
    assert await reason(path) == "corrupt"


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
async def test_flac_checksum_holds_for_every_depth(
    record: Record, take: Samples, subtype: str
) -> None:
    stereo = np.column_stack([take, -take])
    assert (await measured(record(stereo, "take.flac", subtype=subtype))).channels == 2


def hide_length(flac: Path) -> None:
    """Make it a FLAC as programs write it that send it on while they encode."""
    content = bytearray(flac.read_bytes())
    content[21] &= 0xF0
    content[22:42] = bytes(20)
    flac.write_bytes(content)


async def test_flac_of_unknown_length_is_measured(record: Record, take: Samples) -> None:
    path = record(take, "take.flac")
    hide_length(path)
    assert (await measured(path)).frames == 96_000


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"\xff\xfb\x90\x00" + bytes(4_000), "unknown_type"),
        (b"ID3\x04" + bytes(4_000), "unknown_type"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(4_000), "unknown_type"),
        (b"PK\x03\x04" + bytes(4_000), "unknown_type"),
        (b"Dear reviewer, the take is in the mail.", "unknown_type"),
        (b"RIFF\x00\x10\x00\x00AVI " + bytes(4_000), "unknown_type"),
        (b"RIFF", "unknown_type"),
        (b"fLaC" + bytes(4_000), "corrupt"),
    ],
)
async def test_other_files_named_wav_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "take.wav"
    path.write_bytes(content)
    assert await reason(path) == code


async def test_archive_behind_the_sound_is_refused(record: Record, take: Samples) -> None:
    path = record(take)
    path.write_bytes(path.read_bytes() + b"PK\x03\x04 and the rest of an archive")
    assert await reason(path) == "trailing_bytes"


async def test_lossy_sound_in_a_wav_is_refused(record: Record, take: Samples) -> None:
    assert await reason(record(take, subtype="IMA_ADPCM")) == "unsupported_codec"


def wav(*, channels: int = 1, rate: int = 48_000, bits: int = 16, data_bytes: int = 8) -> bytes:
    block = channels * bits // 8
    sizes = (1, channels, rate, rate * block % 2**32, block % 2**16, bits)
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *sizes)
    body = header + b"data" + struct.pack("<I", data_bytes) + bytes(8)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (wav(channels=0), "corrupt"),
        (wav(channels=255), "absurd_channels"),
        (wav(channels=65_535), "absurd_channels"),
        (wav(rate=1_000_000_000), "absurd_sample_rate"),
        (wav(rate=0), "absurd_sample_rate"),
        (wav(bits=0), "corrupt"),
        (wav(data_bytes=2**32 - 1), "truncated"),
        (wav(data_bytes=4_000), "truncated"),
        (wav(data_bytes=0), "no_audio"),
    ],
)
async def test_lying_wav_header_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "take.wav"
    path.write_bytes(content)
    assert await reason(path) == code


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**62 - 40])
async def test_rf64_with_astronomic_sizes_is_refused(
    record: Record, take: Samples, size: int
) -> None:
    path = record(take, "take.wav", format="RF64")
    lying = bytearray(path.read_bytes())
    at = lying.index(b"ds64") + 8
    lying[at : at + 24] = struct.pack("<QQQ", size, size, size)
    path.write_bytes(lying)
    assert await reason(path) == "truncated"


async def test_header_of_endless_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "take.wav"
    body = b"WAVE" + b"junk\x00\x00\x00\x00" * 200_000
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert await reason(path) == "corrupt"


async def test_flac_that_promises_more_frames_is_refused(record: Record, take: Samples) -> None:
    path = record(take, "take.flac")
    lying = bytearray(path.read_bytes())
    lying[22:26] = (200_000).to_bytes(4, "big")
    path.write_bytes(lying)
    assert await reason(path) == "truncated"


@pytest.fixture
def silence_bomb(tmp_path: Path) -> Path:
    """Over two hours of silence in a FLAC of a megabyte or so."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 48_000, 1, "PCM_16") as file:
        for _ in range(2 * 60 + 1):
            file.write(np.zeros(48_000 * 60, np.int16))
    assert path.stat().st_size < 2_000_000
    return path


async def test_silence_bomb_is_refused_by_what_it_claims(silence_bomb: Path) -> None:
    assert await reason(silence_bomb) == "too_long"


async def test_silence_bomb_that_hides_its_length_is_cut_off(silence_bomb: Path) -> None:
    hide_length(silence_bomb)
    assert await reason(silence_bomb, Limits(longest_seconds=HOUR_SECONDS)) == "too_long"


async def test_worker_that_computes_too_long_is_stopped(silence_bomb: Path) -> None:
    found = await measure(silence_bomb, limits=Limits(longest_seconds=10**9, cpu_seconds=1))
    assert found == checks.TOO_MUCH_TIME


async def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await measure(tmp_path / "none.wav")
