"""Keeps uploaded files in a folder or an S3-compatible bucket; a key shows whole files only.

An upload becomes visible under its key in one step, after its size and hash were verified. In a
bucket that step completes a multipart upload, which the provider makes durable. In a folder it is
a rename, and obstore 0.12 calls no fsync there (seen with strace; object_store 0.14.2 beneath it
has a setting for it that obstore does not offer), so the fsyncs are ours.
"""

import asyncio
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

# A part of an S3 upload has at least 5 MiB. Two in flight bound an upload's memory.
PART_BYTES = 5 << 20
PARTS_IN_FLIGHT = 2
READ_BYTES = 1 << 20

# No key starts with a dot, so no key can name a file in here.
UNFINISHED = ".unfinished"
KEY = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")


class UploadError(Exception):
    """The bytes are not the declared ones; nothing was kept"""


class TooLarge(UploadError):
    """The file is larger than allowed"""


class SizeMismatch(UploadError):
    """The file does not have the declared size"""


class HashMismatch(UploadError):
    """The file does not have the declared SHA-256"""


@dataclass(frozen=True)
class Stored:
    """A stored file, or the part from `start` up to but not including `end`, being read."""

    total_bytes: int
    start: int
    end: int
    chunks: AsyncIterator[bytes]


class Storage:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        folder = store.prefix if isinstance(store, LocalStore) else None
        self._folder = Path(folder) if folder else None

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        declared_bytes: int,
        declared_sha256: str,
        limit_bytes: int,
    ) -> None:
        """Store the bytes under the key once they are proved to be the declared ones.

        On return they survive a power failure. On `TooLarge`, `SizeMismatch`, `HashMismatch`, a
        cancellation or whatever `chunks` raises, nothing is left and an older file under the key
        stays; a cancellation during the last step may leave the whole file. Two uploads of one key
        never mix: the last to finish stays, so let one key belong to one declared hash.
        """
        _check_key(key)
        if declared_bytes > limit_bytes:
            raise TooLarge
        verified = _verified(chunks, declared_bytes, declared_sha256.lower())
        if self._folder is None:
            await self._write(key, verified)
        else:
            await self._write_to_folder(self._folder, key, verified)

    async def put(self, key: str, content: bytes) -> None:
        """Store a few bytes under the key, as durably as an upload."""
        sha256 = hashlib.sha256(content).hexdigest()
        size = len(content)
        await self.put_stream(
            key, _one(content), declared_bytes=size, declared_sha256=sha256, limit_bytes=size
        )

    async def _write(self, key: str, verified: AsyncIterator[bytes]) -> None:
        # Leaving this block by an exception aborts the upload instead of completing it.
        async with obstore.open_writer_async(
            self._store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT
        ) as file:
            async for chunk in verified:
                await file.write(chunk)

    async def _write_to_folder(
        self, folder: Path, key: str, verified: AsyncIterator[bytes]
    ) -> None:
        unfinished = f"{UNFINISHED}/{uuid4().hex}"
        try:
            await self._write(unfinished, verified)
            await asyncio.to_thread(_sync, folder / unfinished)
            await obstore.rename_async(self._store, unfinished, key)
            await asyncio.to_thread(_sync_folders, folder, key)
        finally:
            await asyncio.shield(asyncio.to_thread(_remove, folder / unfinished))

    async def read_stream(self, key: str, *, start: int = 0, end: int | None = None) -> Stored:
        """Open a file for download, or a part of it; `ValueError` for a part it does not have.

        Raises `FileNotFoundError`.
        """
        total = await self.size_bytes(key)
        end = total if end is None else min(end, total)
        if not 0 <= start < max(end, 1):
            raise ValueError(f"no bytes {start} to {end} in {total}")
        return Stored(total, start, end, self._chunks(key, start, end))

    async def size_bytes(self, key: str) -> int:
        _check_key(key)
        return (await obstore.head_async(self._store, key))["size"]

    async def _chunks(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        if start == end:
            return
        found = await obstore.get_async(self._store, key, options={"range": (start, end)})
        async for chunk in found.stream(min_chunk_size=READ_BYTES):
            yield bytes(chunk)

    @asynccontextmanager
    async def open_for_check(self, key: str) -> AsyncIterator[Path]:
        """Give a local path to read: the file itself in a folder, else a copy that goes with the
        block. Raises `FileNotFoundError`.
        """
        stored = await self.read_stream(key)
        if self._folder is not None:
            yield self._folder / key
            return
        with tempfile.NamedTemporaryFile(prefix="check-") as copy:
            async for chunk in stored.chunks:
                await asyncio.to_thread(copy.write, chunk)
            copy.flush()
            yield Path(copy.name)

    async def delete(self, key: str) -> None:
        """Remove the file for good; a key that is not there is no error."""
        _check_key(key)
        with suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)
            if self._folder is not None:
                await asyncio.to_thread(_sync, (self._folder / key).parent)

    async def remove_unfinished(self, *, older_than_seconds: float) -> int:
        """Remove what uploads left that were cut off by a kill; says how many files.

        A bucket does the same by a lifecycle rule for incomplete multipart uploads.
        """
        if self._folder is None:
            return 0
        folder = self._folder / UNFINISHED
        return await asyncio.to_thread(_remove_older, folder, time.time() - older_than_seconds)


def open_storage(location: str | Path) -> Storage:
    """Open a folder (a path or `file://` URL; made for us alone if absent) or a bucket's URL.

    A bucket takes its credentials from the environment, as obstore documents for each provider.
    """
    folder = folder_of(location)
    if folder is None:
        return Storage(from_url(str(location)))
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        _sync(folder.parent)
    return Storage(LocalStore(folder))


def folder_of(location: str | Path) -> Path | None:
    """The folder that a location names; None if it is a bucket."""
    url = urlsplit(str(location))
    if url.scheme not in {"", "file"}:
        return None
    folder = Path(unquote(url.path)) if url.scheme else Path(location)
    return folder.expanduser().resolve()


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"not a storage key: {key!r}")


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _verified(
    chunks: AsyncIterator[bytes], declared_bytes: int, declared_sha256: str
) -> AsyncIterator[bytes]:
    """Pass the bytes on, and raise before their end is seen when they are not the declared ones."""
    seen_bytes, sha256 = 0, hashlib.sha256()
    async for chunk in chunks:
        seen_bytes += len(chunk)
        if seen_bytes > declared_bytes:
            raise SizeMismatch
        sha256.update(chunk)
        yield chunk
    if seen_bytes != declared_bytes:
        raise SizeMismatch
    if sha256.hexdigest() != declared_sha256:
        raise HashMismatch


def _sync(path: Path) -> None:
    """Put a file's bytes, or a folder's names, onto the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folders(root: Path, key: str) -> None:
    """Make the names on the way to a key last, each of which may be new."""
    folder = (root / key).parent
    while folder != root:
        _sync(folder)
        folder = folder.parent
    _sync(root)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_older(folder: Path, before: float) -> int:
    removed = 0
    for path in folder.glob("*"):
        # An upload may end meanwhile, and other processes remove, too.
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
                removed += 1
    return removed
