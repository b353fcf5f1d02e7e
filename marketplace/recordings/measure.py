"""The worker that reads one untrusted sound file and prints what it measured as one JSON object.

The file comes on standard input, so the worker opens no name and needs no folder. Before it looks
at a byte it gives up memory, processor time, files, children and, where the system allows it, the
network and the file system. Whatever a hostile file breaks, breaks here.

It runs by its path under `python -I`, so it is one file that imports nothing of ours; numpy and
soundfile only after the limits stand. Its arguments are the longest seconds of sound, the bytes of
address space and the seconds of processor time. Its output must be a pipe: it may not write files.
"""

import ctypes
import hashlib
import io
import json
import math
import os
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import soundfile

    Block = np.ndarray[tuple[int, int], np.dtype[Any]]

FRAMES_PER_BLOCK = 1 << 16
# More than any gate lets pass, and little enough that no file takes minutes to decode.
SAMPLE_RATES_HZ = range(4_000, 192_001)
CHANNELS = range(1, 5)
PARTS_BEFORE_SOUND = 1_000

# Whatever else a WAV may hold (ADPCM, GSM, mu-law) is lossy, and no buyer expects it there.
INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
FLOAT_BITS = {"FLOAT": 24, "DOUBLE": 32}

# A converter that overloads stays at its limit for several samples. One or two samples there are
# how every file that was normalised to full scale looks, and prove nothing.
CLIPPED_RUN_SAMPLES = 3

# Lone zeros are ordinary crossings, most of all in 16 bits. No microphone holds exact zero for
# 10 ms (one frame of the usual noise suppressors): a gate, a suppressor or a gap does.
ZERO_RUN_SECONDS = 0.010


class RefusedError(Exception):
    """The file cannot be measured: a stable code, and a message for the person who sent it."""


@dataclass(frozen=True)
class Header:
    """What the file says about itself, which is only ever compared with what was decoded."""

    container: str
    sample_rate_hz: int
    channels: int
    bits: int
    frames: int | None
    md5: str | None = None


def main() -> None:
    longest_seconds, memory_bytes, cpu_seconds = map(int, sys.argv[1:])
    confinement = confine(memory_bytes=memory_bytes, cpu_seconds=cpu_seconds)
    # The libraries must be loaded before the file system is given up.
    tools = _load_tools()
    confinement += give_up_files()
    try:
        found = examine(0, longest_seconds=longest_seconds)
        answer = {"measured": found | {"tools": tools, "confinement": confinement}}
    except RefusedError as error:
        answer = {"refused": dict(zip(("code", "message"), error.args, strict=True))}
    except MemoryError:
        answer = {"refused": {"code": "too_much_memory", "message": "Reading it needs too much."}}
    sys.stdout.write(json.dumps(answer, allow_nan=False))


def confine(*, memory_bytes: int, cpu_seconds: int) -> list[str]:
    """Give up memory, time, children (root is exempt) and the network; names what really holds."""
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(what, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    # Other systems than Linux may refuse this one: they reserve far more than they use.
    with suppress(*() if sys.platform == "linux" else (ValueError, OSError)):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    return ["limits", *_leave_the_network()]


def _leave_the_network() -> list[str]:
    """Move to an empty network namespace and die with the parent, where Linux permits it."""
    if sys.platform != "linux":
        return []
    set_death_signal, sigkill, no_new_privileges = 1, 9, 38
    new_network, new_user = 0x4000_0000, 0x1000_0000
    libc = ctypes.CDLL(None)
    libc.prctl(set_death_signal, sigkill, 0, 0, 0)
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    alone = libc.unshare(new_network) == 0 or libc.unshare(new_user | new_network) == 0
    return ["network"] if alone else []


def give_up_files() -> list[str]:
    """Let Linux (5.13 or later, with Landlock) refuse every later opening of a file or TCP port.

    Files already open stay usable: standard input is all the worker needs. Source: the kernel's
    user-space API guide on Landlock, where each right and its ABI version is listed.
    """
    if sys.platform != "linux":
        return []
    create_ruleset, restrict_self, ask_version = 444, 446, 1
    libc = ctypes.CDLL(None)
    abi = libc.syscall(create_ruleset, None, 0, ask_version)
    if abi < 1:
        return []
    files, tcp, signals_and_sockets = (1 << 13) - 1, 0b11, 0b11
    rights = [files] + [tcp] * (abi >= 4) + [signals_and_sockets] * (abi >= 6)
    attributes = (ctypes.c_uint64 * len(rights))(*rights)
    ruleset = libc.syscall(create_ruleset, attributes, ctypes.c_size_t(8 * len(rights)), 0)
    return ["files"] if ruleset >= 0 and libc.syscall(restrict_self, ruleset, 0) == 0 else []


def _load_tools() -> dict[str, str]:
    import numpy as np
    import soundfile

    return {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
    }


def examine(fd: int, *, longest_seconds: int) -> dict[str, Any]:
    """Measure the file behind a descriptor in one pass with constant memory.

    Raises `RefusedError` when it is no WAV or FLAC, is cut short or corrupt, lies about itself, or
    lasts longer than the caller allows.
    """
    header = read_header(fd, os.fstat(fd).st_size)
    _refuse_the_absurd(header, longest_seconds)
    os.lseek(fd, 0, os.SEEK_SET)
    with _opened(fd, header) as file:
        meter = Meter(header, file.subtype)
        for block in _blocks(file):
            meter.add(block)
            if meter.frames > longest_seconds * header.sample_rate_hz:
                raise RefusedError("too_long", f"It lasts longer than {longest_seconds} seconds.")
        _compare(header, meter)
        return {"codec": file.format, "subtype": file.subtype, **meter.readings()}


def read_header(fd: int, size_bytes: int) -> Header:
    """Read the file's own account of itself; its name and declared type are never asked."""
    magic = os.pread(fd, 12, 0)
    if magic[:4] in {b"RIFF", b"RF64"} and magic[8:] == b"WAVE":
        return _wav_header(fd, size_bytes)
    if magic[:4] == b"fLaC":
        return _flac_header(fd)
    if not magic:
        raise RefusedError("empty", "The file is empty.")
    raise RefusedError("unknown_type", "It is neither a WAV nor a FLAC file.")


def _wav_header(fd: int, size_bytes: int) -> Header:
    """Walk the chunks up to the samples and hold every size against the file's.

    libsndfile reads a WAV that was cut short as if it were whole.
    """
    big = os.pread(fd, 4, 0) == b"RF64"
    riff_bytes: int = struct.unpack("<I", os.pread(fd, 4, 4))[0]
    data_bytes_64, channels, rate, block_bytes, bits = 0, 0, 0, 0, 0
    position = 12
    for _ in range(PARTS_BEFORE_SOUND):
        name, length = struct.unpack("<4sI", _exactly(fd, 8, position))
        body = position + 8
        if name == b"ds64" and big:
            riff_bytes, data_bytes_64 = struct.unpack("<QQ", _exactly(fd, 16, body))
        elif name == b"fmt ":
            form = struct.unpack("<2xHI4xHH", _exactly(fd, 16, body))
            channels, rate, block_bytes, bits = form
        elif name == b"data":
            break
        position = body + length + length % 2
    else:
        raise RefusedError("corrupt", "Its header has too many parts.")
    data_bytes = data_bytes_64 if big and length == 0xFFFF_FFFF else length
    if not block_bytes:
        raise RefusedError("corrupt", "Its header does not describe the sound.")
    _hold_against_file(body + data_bytes, riff_bytes + 8, size_bytes)
    return Header("RF64" if big else "WAV", rate, channels, bits, data_bytes // block_bytes)


def _hold_against_file(data_end: int, riff_end: int, size_bytes: int) -> None:
    """Allow what careless but honest writers do: a size off by the 8-byte header, one pad byte."""
    if data_end > size_bytes or riff_end > size_bytes + 8:
        raise RefusedError("truncated", "The file ends before its header says it does.")
    if size_bytes > max(data_end, riff_end) + 1:
        raise RefusedError("trailing_bytes", "Something else follows the sound in this file.")


def _exactly(fd: int, count: int, position: int) -> bytes:
    # A 64-bit chunk size may point past what the system can even seek to.
    found = os.pread(fd, count, position) if position < 1 << 62 else b""
    if len(found) < count:
        raise RefusedError("truncated", "The file ends inside its header.")
    return found


def _flac_header(fd: int) -> Header:
    """Read STREAMINFO (RFC 9639, section 8.2); 0 frames and an all-zero MD5 mean "not known"."""
    if _exactly(fd, 4, 4) not in {b"\x00\x00\x00\x22", b"\x80\x00\x00\x22"}:
        raise RefusedError("corrupt", "Its header does not describe the sound.")
    _refuse_a_second_description(fd)
    info = _exactly(fd, 34, 8)
    packed = int.from_bytes(info[10:18], "big")
    rate, channels, bits = packed >> 44, (packed >> 41 & 0b111) + 1, (packed >> 36 & 0b1_1111) + 1
    frames = packed & (1 << 36) - 1 or None
    md5 = info[18:].hex() if any(info[18:]) else None
    return Header("FLAC", rate, channels, bits, frames, md5)


def _refuse_a_second_description(fd: int) -> None:
    """Walk the metadata: of two STREAMINFO blocks each program believes another."""
    position = 4
    for number in range(PARTS_BEFORE_SOUND):
        kind, *length = _exactly(fd, 4, position)
        if number and kind & 0x7F == 0:
            raise RefusedError("corrupt", "Its header contradicts itself.")
        if kind & 0x80:
            return
        position += 4 + int.from_bytes(length, "big")
    raise RefusedError("corrupt", "Its header has too many parts.")


class WithoutLength(io.FileIO):
    """A FLAC that does not say how long it is, else libsndfile decodes no further than that."""

    # The 36 bits of STREAMINFO that count the frames, and the four before them.
    HIDDEN = range(21, 26)

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for position in self.HIDDEN:
            if start <= position < start + count:
                view[position - start] &= 0xF0 if position == self.HIDDEN[0] else 0
        return count


def _refuse_the_absurd(header: Header, longest_seconds: int) -> None:
    rate = header.sample_rate_hz
    if rate not in SAMPLE_RATES_HZ:
        raise RefusedError("absurd_sample_rate", f"It claims {rate} samples a second.")
    if header.channels not in CHANNELS:
        raise RefusedError("absurd_channels", f"It claims {header.channels} channels.")
    if header.frames == 0:
        raise RefusedError("no_audio", "It holds no sound.")
    if header.frames and header.frames > longest_seconds * rate:
        raise RefusedError("too_long", f"It claims to last over {longest_seconds} seconds.")


@contextmanager
def _opened(fd: int, header: Header) -> "Iterator[soundfile.SoundFile]":
    import soundfile

    class Unsought(soundfile.SoundFile):  # type: ignore[misc]
        """soundfile seeks after every read, which fails in a FLAC that does not know its length."""

        def seekable(self) -> bool:
            return False

    try:
        source = WithoutLength(fd, closefd=False) if header.container == "FLAC" else fd
        with Unsought(source, closefd=False) as file:
            if (file.samplerate, file.channels) != (header.sample_rate_hz, header.channels):
                raise RefusedError("corrupt", "Its header contradicts itself.")
            if file.subtype not in INTEGER_BITS | FLOAT_BITS:
                raise RefusedError("unsupported_codec", f"{file.subtype} is not accepted.")
            yield file
    except soundfile.LibsndfileError:
        raise RefusedError("corrupt", "The sound in it cannot be decoded.") from None


def _blocks(file: "soundfile.SoundFile") -> "Iterator[Block]":
    """Yield decoded frames in one buffer used over and over: integers fill 32 bits from the top."""
    import numpy as np

    sample = np.float64 if file.subtype in FLOAT_BITS else np.int32
    buffer = np.empty((FRAMES_PER_BLOCK, file.channels), sample)
    while len(block := file.read(out=buffer)):
        yield block


def _compare(header: Header, meter: "Meter") -> None:
    """Refuse what was decoded when it is not what the header promised."""
    if header.frames and meter.frames < header.frames:
        raise RefusedError("truncated", "The sound ends before its header says it does.")
    if header.frames and meter.frames > header.frames:
        raise RefusedError("corrupt", "There is more sound in it than its header says.")
    if meter.frames == 0:
        raise RefusedError("no_audio", "It holds no sound.")
    if header.md5 and meter.flac_md5.hexdigest() != header.md5:
        raise RefusedError("corrupt", "The sound differs from the checksum inside the file.")


class Meter:
    """Running figures over the blocks of one file."""

    def __init__(self, header: Header, subtype: str) -> None:
        self.header = header
        self.frames = 0
        self.flac_md5 = hashlib.md5(usedforsecurity=False)
        self._bits = (INTEGER_BITS | FLOAT_BITS)[subtype]
        self._full_scale = 1.0 if subtype in FLOAT_BITS else float(1 << 31)
        # One step of the sample format below the top (of 16 bits at most) counts as the top.
        self._top = self._full_scale * (1 - 2.0 ** (1 - min(self._bits, 16)))
        self._peak = 0.0
        self._first: int | None = None
        self._changed_bits = 0
        self._sha256 = hashlib.sha256()
        zero_run = math.ceil(ZERO_RUN_SECONDS * header.sample_rate_hz)
        self._clipped = [Runs(CLIPPED_RUN_SAMPLES) for _ in range(header.channels)]
        self._zeros = [Runs(zero_run) for _ in range(header.channels)]

    def add(self, block: "Block") -> None:
        self.frames += len(block)
        self._add_peak(block)
        self._add_bits(block)
        self._sha256.update(block.astype(block.dtype.newbyteorder("<"), copy=False).data)
        if self.header.md5:
            self._add_flac_md5(block)
        for channel, (clipped, zeros) in enumerate(zip(self._clipped, self._zeros, strict=True)):
            samples = block[:, channel]
            clipped.add((samples >= self._top) | (samples <= -self._top))
            zeros.add(samples == 0)

    def _add_peak(self, block: "Block") -> None:
        block_peak = max(float(block.max()), -float(block.min()))
        if not math.isfinite(block_peak):
            raise RefusedError("non_finite", "It holds samples that are no numbers.")
        self._peak = max(self._peak, block_peak)

    def _add_bits(self, block: "Block") -> None:
        """Collect the bits that differ from the first sample's; padding never does."""
        import numpy as np

        whole = block
        if self._full_scale == 1.0:
            scaled = np.clip(block, -2, 2) * float(1 << 31)
            whole = scaled.astype(np.int64)
            self._changed_bits |= int((scaled != whole).any())
        if self._first is None:
            self._first = int(whole[0, 0])
        self._changed_bits |= int(np.bitwise_or.reduce(whole ^ self._first, axis=None))

    def _add_flac_md5(self, block: "Block") -> None:
        """RFC 9639, section 8.2: interleaved, signed, little-endian, in whole bytes per sample."""
        import numpy as np

        sample_bytes = (self.header.bits + 7) // 8
        samples = (block >> (32 - self.header.bits)).astype("<i4", copy=False)
        narrow = samples.view(np.uint8).reshape(-1, 4)[:, :sample_bytes]
        self.flac_md5.update(np.ascontiguousarray(narrow).data)

    def readings(self) -> dict[str, Any]:
        samples = self.frames * self.header.channels
        clipped = sum(runs.total() for runs in self._clipped)
        zeros = sum(runs.total() for runs in self._zeros)
        peak = self._peak / self._full_scale
        return {
            "container": self.header.container,
            "sample_rate_hz": self.header.sample_rate_hz,
            "channels": self.header.channels,
            "frames": self.frames,
            "duration_seconds": self.frames / self.header.sample_rate_hz,
            "effective_bits": self._effective_bits(),
            "sample_peak_dbfs": 20 * math.log10(peak) if peak else None,
            "clipped_samples": clipped,
            "clipped_ppm": clipped * 1e6 / samples,
            "digital_zero_percent": zeros * 100 / samples,
            "pcm_sha256": self._sha256.hexdigest(),
        }

    def _effective_bits(self) -> int:
        lowest = (self._changed_bits & -self._changed_bits).bit_length() - 1
        return min(32 - lowest, self._bits) if self._changed_bits else 0


class Runs:
    """Counts the samples that stand in runs of at least `shortest`, across block borders."""

    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._open = 0
        self._counted = 0

    def add(self, mask: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> None:
        import numpy as np

        if not mask.any():
            self._close()
            return
        edges = np.flatnonzero(mask[1:] != mask[:-1]) + 1
        bounds = np.concatenate(([0], edges, [len(mask)]))
        lengths = np.diff(bounds)[0 if mask[0] else 1 :: 2]
        if mask[0]:
            lengths[0] += self._open
            self._open = 0
        self._close()
        if mask[-1]:
            self._open, lengths = int(lengths[-1]), lengths[:-1]
        self._counted += int(lengths[lengths >= self._shortest].sum())

    def total(self) -> int:
        self._close()
        return self._counted

    def _close(self) -> None:
        self._counted += self._open if self._open >= self._shortest else 0
        self._open = 0


if __name__ == "__main__":
    main()
