"""Stories of uploads that arrive, lie, break off, race, and must last."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from marketplace.recordings.storage import (
    UNFINISHED,
    HashMismatch,
    SizeMismatch,
    Storage,
    TooLarge,
    open_storage,
)

pytestmark = pytest.mark.anyio

KEY = "recordings/01/take"
# Larger than one part, so that uploads really go in parts.
TAKE = random.Random(3).randbytes(12_000_000)  # noqa: S311
LIMIT = 20_000_000


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "files") if request.param == "folder" else Storage(MemoryStore())


async def pieces(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]
        await asyncio.sleep(0)


async def put(
    storage: Storage,
    content: bytes = TAKE,
    *,
    key: str = KEY,
    declared: bytes | None = None,
    chunks: AsyncIterator[bytes] | None = None,
    limit_bytes: int = LIMIT,
) -> None:
    declared = content if declared is None else declared
    await storage.put_stream(
        key,
        chunks or pieces(content),
        declared_bytes=len(declared),
        declared_sha256=hashlib.sha256(declared).hexdigest(),
        limit_bytes=limit_bytes,
    )


async def read(storage: Storage, key: str = KEY, **part: int) -> bytes:
    stored = await storage.read_stream(key, **part)
    content = b"".join([chunk async for chunk in stored.chunks])
    assert len(content) == stored.end - stored.start
    return content


async def everything(storage: Storage) -> list[str]:
    names = [entry["path"] for batch in obstore.list(storage._store) for entry in batch]  # noqa: SLF001
    if storage._folder:  # noqa: SLF001
        root = storage._folder  # noqa: SLF001
        names = [
            str(path.relative_to(root))
            for path in await asyncio.to_thread(root.rglob, "*")
            if path.is_file()
        ]
    return names


async def test_upload_is_stored_whole(storage: Storage) -> None:
    await put(storage)
    assert await read(storage) == TAKE
    assert await storage.size_bytes(KEY) == len(TAKE)
    assert await everything(storage) == [KEY]


@pytest.mark.parametrize("content", [b"", b"short"])
async def test_tiny_upload_is_stored(storage: Storage, content: bytes) -> None:
    await put(storage, content)
    assert await read(storage) == content


async def test_upload_that_is_cut_short_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(SizeMismatch):
        await put(storage, TAKE[:-1], declared=TAKE)
    assert await everything(storage) == []


async def test_upload_that_goes_on_is_stopped_and_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(SizeMismatch):
        await put(storage, TAKE + b"more", declared=TAKE)
    assert await everything(storage) == []


async def test_upload_with_a_flipped_bit_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(HashMismatch):
        await put(storage, TAKE[:-1] + bytes([TAKE[-1] ^ 1]), declared=TAKE)
    assert await everything(storage) == []


async def test_upload_over_the_limit_is_refused_before_its_first_byte(storage: Storage) -> None:
    chunks = pieces(TAKE)
    with pytest.raises(TooLarge):
        await put(storage, chunks=chunks, limit_bytes=len(TAKE) - 1)
    assert await anext(chunks) == TAKE[:100_000]
    assert await everything(storage) == []


async def test_disconnect_leaves_nothing(storage: Storage) -> None:
    async def breaks_off() -> AsyncIterator[bytes]:
        yield TAKE[:9_000_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await put(storage, chunks=breaks_off())
    assert await everything(storage) == []


async def test_cancelled_upload_leaves_nothing(storage: Storage) -> None:
    reached = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield TAKE[:9_000_000]
        reached.set()
        await asyncio.sleep(60)

    upload = asyncio.create_task(put(storage, chunks=stalls()))
    await reached.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await everything(storage) == []


async def test_upload_cancelled_at_any_moment_leaves_nothing_or_the_whole(storage: Storage) -> None:
    for turns in range(0, 300, 7):
        upload = asyncio.create_task(put(storage))
        for _ in range(turns):
            await asyncio.sleep(0)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        if await everything(storage):
            assert await everything(storage) == [KEY]
            assert await read(storage) == TAKE
            await storage.delete(KEY)


async def test_nothing_is_visible_before_the_last_byte(storage: Storage) -> None:
    async def watched() -> AsyncIterator[bytes]:
        async for piece in pieces(TAKE):
            yield piece
        with pytest.raises(FileNotFoundError):
            await storage.size_bytes(KEY)

    await put(storage, chunks=watched())


async def test_failed_upload_keeps_the_older_file(storage: Storage) -> None:
    await put(storage)
    with pytest.raises(HashMismatch):
        await put(storage, TAKE[::-1], declared=TAKE)
    assert await read(storage) == TAKE


async def test_concurrent_uploads_of_one_key_never_mix(storage: Storage) -> None:
    takes = [bytes([number]) * 6_000_000 for number in range(6)]
    await asyncio.gather(*(put(storage, take) for take in takes))
    assert await read(storage) in takes
    assert await everything(storage) == [KEY]


async def test_good_upload_wins_over_a_racing_bad_one(storage: Storage) -> None:
    good, bad = await asyncio.gather(
        put(storage), put(storage, TAKE[::-1], declared=TAKE), return_exceptions=True
    )
    assert good is None
    assert isinstance(bad, HashMismatch)
    assert await read(storage) == TAKE


async def test_parts_are_read_by_range(storage: Storage) -> None:
    await put(storage)
    assert await read(storage, start=5, end=9) == TAKE[5:9]
    assert await read(storage, start=11_999_999) == TAKE[-1:]
    assert await read(storage, start=1, end=99_000_000) == TAKE[1:]
    for start, end in [(-1, 5), (12_000_000, 12_000_001), (9, 9), (9, 5)]:
        with pytest.raises(ValueError, match="no bytes"):
            await storage.read_stream(KEY, start=start, end=end)


async def test_check_sees_the_bytes_in_a_local_file(storage: Storage) -> None:
    await put(storage)
    async with storage.open_for_check(KEY) as path:
        assert await asyncio.to_thread(path.read_bytes) == TAKE
    assert await read(storage) == TAKE


async def test_deleted_file_is_gone_and_deleting_again_is_no_error(storage: Storage) -> None:
    await put(storage)
    await storage.delete(KEY)
    await storage.delete(KEY)
    with pytest.raises(FileNotFoundError):
        await storage.read_stream(KEY)
    with pytest.raises(FileNotFoundError):
        async with storage.open_for_check(KEY):
            pass


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".unfinished/x", "a b", "A", "a\n", "ä"],
)
async def test_strange_keys_are_refused(storage: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="not a storage key"):
        await put(storage, key=key)
    with pytest.raises(ValueError, match="not a storage key"):
        await storage.read_stream(key)
    with pytest.raises(ValueError, match="not a storage key"):
        await storage.delete(key)


async def test_folder_of_an_upload_is_synced_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    really_sync = os.fsync

    def noted(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        really_sync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    root = tmp_path / "files"
    await put(open_storage(root))
    created, unfinished, *folders = synced
    assert created == str(tmp_path)
    assert unfinished.startswith(str(root / UNFINISHED))
    assert folders == [str(root / "recordings/01"), str(root / "recordings"), str(root)]


def leave_half_a_take(root: Path, *, at: float) -> None:
    left = root / UNFINISHED / "0123#1"
    left.write_bytes(b"half a take")
    os.utime(left, (at, at))


async def test_what_a_kill_left_is_removed_when_old(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/files")
    await put(storage)
    leave_half_a_take(tmp_path / "files", at=time.time())
    assert await storage.remove_unfinished(older_than_seconds=3_600) == 0
    leave_half_a_take(tmp_path / "files", at=time.time() - 3_601)
    assert await storage.remove_unfinished(older_than_seconds=3_600) == 1
    assert await everything(storage) == [KEY]


def test_folder_we_make_is_private_and_one_we_find_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    open_storage(tmp_path)
    open_storage(tmp_path / "ours")
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o700
