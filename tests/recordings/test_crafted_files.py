"""Stories of files that somebody built byte by byte: each gets a clear answer, none a crash."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from marketplace.recordings import gates
from marketplace.recordings.checks import Measurement, measure
from tests.world import Client, Person, World, upload

RATE = 48_000
SOUND = (0.25 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE) * 2**15).astype("<i2").tobytes()
HTML = b"<html><script>alert(1)</script></html>"
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
LYING = b"\xff\xff\xff\xff"


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def form(
    tag: int = 1,
    *,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    block: int | None = None,
    more: bytes = b"",
) -> bytes:
    """A WAV's `fmt ` chunk."""
    block = channels * bits // 8 if block is None else block
    fields = struct.pack("<HHIIHH", tag, channels, rate, rate * block % 2**32, block, bits)
    return chunk(b"fmt ", fields + more)


def wav(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body


def rf64(riff: int, data: int, frames: int, *, table: int = 0, said: bytes = LYING) -> bytes:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", riff, data, frames, table))
    return wav(ds64, form(), b"data" + said + SOUND, magic=b"RF64", size=2**32 - 1)


def extensible(*, guid: bytes = PCM_GUID, says: int = 22) -> bytes:
    return form(0xFFFE, more=struct.pack("<HHI", says, 16, 4) + guid)


def encoded(container: str, subtype: str, *, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    samples = np.frombuffer(SOUND, "<i2")
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


FLAC = encoded("FLAC", "PCM_16")
FRAMES_OF_FLAC = len(SOUND) // 2


def claiming(
    *, rate: int = RATE, channels: int = 1, bits: int = 16, frames: int = FRAMES_OF_FLAC
) -> bytes:
    """The same FLAC with another STREAMINFO (RFC 9639, section 8.2) and no checksum."""
    packed = rate << 44 | channels - 1 << 41 | bits - 1 << 36 | frames
    return FLAC[:18] + packed.to_bytes(8, "big") + bytes(16) + FLAC[42:]


def with_block(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """The same FLAC with one more metadata block after STREAMINFO."""
    head = bytes([kind]) + (len(body) if length is None else length).to_bytes(3, "big")
    return FLAC[:4] + b"\0" + FLAC[5:42] + head + body + FLAC[42:]


def floats(value: float, depth: str = "<f4") -> bytes:
    samples = np.full(RATE, 0.25)
    samples[RATE // 2] = value
    body = samples.astype(depth).tobytes()
    return wav(form(3, bits=8 * int(depth[-1])), chunk(b"data", body))


DATA = chunk(b"data", SOUND)
SILENCE = chunk(b"data", bytes(len(SOUND)))
RIFF_OF_RF64 = 4 + 36 + 24 + 8 + len(SOUND)

REFUSED = {
    "big-endian WAV": (b"RIFX" + wav(form(), DATA)[4:], "unknown_type"),
    "AIFF": (encoded("AIFF", "PCM_16"), "unknown_type"),
    "W64": (encoded("W64", "PCM_16"), "unknown_type"),
    "CAF": (encoded("CAF", "PCM_16"), "unknown_type"),
    "Ogg": (encoded("OGG", "VORBIS"), "unknown_type"),
    "FLAC behind an ID3 tag": (b"ID3\4\0\0\0\0\0\x0aTIT2" + bytes(6) + FLAC, "unknown_type"),
    "HTML with a sound behind it": (HTML + wav(form(), DATA), "unknown_type"),
    "sound with HTML behind it": (wav(form(), DATA) + HTML, "trailing_bytes"),
    "mu-law": (encoded("WAV", "ULAW"), "unsupported_codec"),
    "A-law": (encoded("WAV", "ALAW"), "unsupported_codec"),
    "Microsoft ADPCM": (encoded("WAV", "MS_ADPCM"), "unsupported_codec"),
    "GSM": (encoded("WAV", "GSM610", rate=8_000), "unsupported_codec"),
    "MP3 in a WAV": (wav(form(0x55, block=1), DATA), "corrupt"),
    "no such codec": (wav(form(0xFFFF), DATA), "corrupt"),
    "no such extensible codec": (wav(extensible(guid=LYING * 4), DATA), "corrupt"),
    "extensible without an extension": (wav(form(0xFFFE), DATA), "corrupt"),
    "two sounds": (wav(form(), SILENCE, DATA), "corrupt"),
    "two formats": (wav(form(channels=2), form(), DATA), "corrupt"),
    "format behind the sound": (wav(DATA, form()), "corrupt"),
    "format cut short": (wav(chunk(b"fmt ", form()[8:22]), DATA), "corrupt"),
    "block of 3 bytes for 16 bits": (wav(form(block=3), DATA), "corrupt"),
    "block of 1 byte for 16 bits": (wav(form(block=1), DATA), "truncated"),
    "block of 65,535 bytes": (wav(form(block=65_535), DATA), "corrupt"),
    "65,535 bits": (wav(form(bits=65_535, block=2), DATA), "corrupt"),
    "24 bits in blocks of 4 bytes": (wav(form(bits=24, block=4), DATA), "corrupt"),
    "4,294,967,295 Hz": (wav(form(rate=2**32 - 1), DATA), "absurd_sample_rate"),
    "half a sample": (wav(form(), chunk(b"data", b"x")), "no_audio"),
    "endless sizes of a stream": (
        wav(form(), b"data" + LYING + SOUND, size=2**32 - 1),
        "truncated",
    ),
    "sizes never filled in": (wav(form(), b"data" + bytes(4) + SOUND, size=0), "trailing_bytes"),
    "endless part before the sound": (wav(form(), b"JUNK" + LYING, DATA), "truncated"),
    "list that is longer than the file": (wav(form(), b"LIST\xf0\xff\xff\x7fINFO"), "truncated"),
    "label that is longer than its list": (
        wav(form(), chunk(b"LIST", b"adtllabl" + LYING), DATA),
        "corrupt",
    ),
    "RF64 without its sizes": (
        wav(form(), b"data" + LYING + SOUND, magic=b"RF64", size=2**32 - 1),
        "truncated",
    ),
    "RF64 with a lying table": (
        rf64(RIFF_OF_RF64, len(SOUND), RATE, table=2**32 - 1),
        "corrupt",
    ),
    "RF64 with two sizes for one sound": (
        rf64(RIFF_OF_RF64, len(SOUND) // 2, RATE, said=struct.pack("<I", len(SOUND))),
        "truncated",
    ),
    "RIFF with RF64's sizes": (
        b"RIFF" + rf64(RIFF_OF_RF64, len(SOUND), RATE)[4:],
        "truncated",
    ),
    "NaN": (floats(np.nan), "non_finite"),
    "infinite": (floats(-np.inf, "<f8"), "non_finite"),
    "FLAC of 655,350 Hz": (claiming(rate=655_350), "absurd_sample_rate"),
    "FLAC of 8 channels": (claiming(channels=8), "absurd_channels"),
    "FLAC of 2 channels that holds one": (claiming(channels=2), "corrupt"),
    "FLAC of 20 bits": (claiming(bits=20), "corrupt"),
    "FLAC that lasts longer than it says": (claiming(frames=RATE // 2), "corrupt"),
    "FLAC with a sample more than it says": (claiming(frames=RATE - 1), "corrupt"),
    "FLAC with a sample less than it says": (claiming(frames=RATE + 1), "truncated"),
    "FLAC of 2^36 frames": (claiming(frames=2**36 - 1), "too_long"),
    "FLAC that describes itself twice": (with_block(0, FLAC[8:42]), "corrupt"),
    "FLAC with a part longer than the file": (with_block(1, b"", length=2**24 - 1), "truncated"),
    "FLAC with endless parts": (
        FLAC[:4] + b"\0" + FLAC[5:42] + b"\1\0\0\0" * 2_000 + FLAC[42:],
        "corrupt",
    ),
    "FLAC with a lying comment": (with_block(4, struct.pack("<I", 2**32 - 16)), "corrupt"),
    "FLAC with a lying picture": (with_block(6, struct.pack(">II", 3, 2**32 - 1)), "corrupt"),
    "FLAC without sound": (FLAC[:4] + b"\x80" + FLAC[5:42], "truncated"),
    "FLAC with an archive behind it": (FLAC + b"PK\x03\x04 and the rest", "corrupt"),
    "FLAC with another behind it": (FLAC + FLAC, "corrupt"),
    "FLAC of unknown length with HTML behind it": (claiming(frames=0) + HTML * 99, "corrupt"),
}

MEASURED = {
    "RF64": rf64(RIFF_OF_RF64, len(SOUND), RATE),
    "RF64 whose count of frames nobody needs": rf64(RIFF_OF_RF64, len(SOUND), 7),
    "RIFF size never filled in": wav(form(), DATA, size=0),
    "extensible": wav(extensible(), DATA),
    "extensible that claims a long extension": wav(extensible(says=65_535), DATA),
    "odd count of bytes without a pad": wav(form(), b"data\xe9\3\0\0" + SOUND[:1_001]),
    "cue points without end": wav(form(), chunk(b"cue ", b"\xff\xff\xff\x7f"), DATA),
    "HTML in a part of its own": wav(form(), DATA, chunk(b"JUNK", HTML)),
    "garbage within its declared size": wav(form(), DATA, b"\xde\xad\xbe\xef" + LYING),
    "300,000 parts behind the sound": wav(form(), DATA, b"junk\0\0\0\0" * 300_000),
    "FLAC with HTML in a part of its own": with_block(2, b"html" + HTML),
    "FLAC that promises no length": claiming(frames=0),
}


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "take.wav"
    path.write_bytes(content)
    return path


@pytest.mark.anyio
@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    content, code = REFUSED[name]
    found = await measure(written(tmp_path, content))
    assert not isinstance(found, Measurement), found
    assert (found.reason_code, found.retryable) == (code, False)


@pytest.mark.anyio
@pytest.mark.parametrize("name", MEASURED)
async def test_it_is_measured_by_its_sound_alone(tmp_path: Path, name: str) -> None:
    found = await measure(written(tmp_path, MEASURED[name]))
    assert isinstance(found, Measurement), found
    assert found.sample_rate_hz == RATE
    assert found.frames == (500 if "odd" in name else RATE)
    assert found.effective_bits == 16


@pytest.mark.anyio
@pytest.mark.parametrize("value", [3.4e38, 1e-45, 1.7e308, 5e-324, -0.0], ids=str)
async def test_extreme_numbers_make_a_report_that_is_json(tmp_path: Path, value: float) -> None:
    depth = "<f4" if 1e-45 <= value <= 3.5e38 else "<f8"
    found = await measure(written(tmp_path, floats(value, depth)))
    assert isinstance(found, Measurement), found
    report = gates.report(found, gates.Tier.STUDIO, longest_seconds=600)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.fixture
def send(world: World, acme: Client, ana: Person) -> Callable[[bytes], Any]:
    """Ana uploads it as a take, and it is checked."""
    claim = world.claim(ana, world.published_job(acme))

    def sent(content: bytes) -> Any:
        recording = upload(ana, f"/v1/claims/{claim['id']}/recordings", content)
        world.sweep("recordings")
        return ana.get(f"/v1/recordings/{recording['id']}")

    return sent


def test_nothing_of_a_refused_file_is_left(world: World, send: Callable[[bytes], Any]) -> None:
    for name in ("sound with HTML behind it", "NaN", "FLAC that lasts longer than it says"):
        content, code = REFUSED[name]
        found = send(content)
        assert (found["state"], found["report"]["reason_code"]) == ("unreadable", code)
        assert found["state_reason"]
    files = Path(world.settings.storage_url).rglob("*")
    assert [file for file in files if file.is_file()] == []


def test_a_sound_that_is_also_a_page_is_served_as_nothing_but_sound(
    world: World, ana: Person, ravi: Person, send: Callable[[bytes], Any]
) -> None:
    content = MEASURED["HTML in a part of its own"]
    take = send(content)
    (claim,) = ana.get("/v1/claims")["items"]
    world.work(ana, claim, "perform", 60)
    world.hand_in(ana, claim, take["id"])
    review = ravi.post("/v1/reviews/next")
    heard = ravi.ask("GET", f"/v1/reviews/{review['id']}/recordings/{take['id']}/content")
    assert heard.content == content
    assert heard.headers["content-type"] == "audio/wav"
    assert heard.headers["x-content-type-options"] == "nosniff"
    assert heard.headers["content-disposition"].startswith("attachment")
