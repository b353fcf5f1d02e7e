"""Passwords are hashed slowly: a few at a time, never in a transaction, never in a long line."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error

from marketplace.shared.problems import TryAgain

# Each takes 64 MiB and some 50 ms of all cores, so that a line of 32 is a second or two of waiting.
AT_ONCE = anyio.CapacityLimiter(2)
PLACES = threading.BoundedSemaphore(32)

_hasher = PasswordHasher()
# Checked when the address is unknown, so that the answer takes as long as for a known one.
NOBODYS_HASH = _hasher.hash("nobody has this password")


@contextmanager
def place_in_line() -> Iterator[None]:
    """Taken before anything is counted or looked up, or TryAgain when all are taken."""
    if not PLACES.acquire(blocking=False):
        raise TryAgain("Too many people are signing in at this moment; try again.")
    try:
        yield
    finally:
        PLACES.release()


async def hashed(password: str) -> str:
    return await anyio.to_thread.run_sync(_hasher.hash, password, limiter=AT_ONCE)


async def is_right(password: str, stored: str) -> bool:
    def verify() -> bool:
        try:
            return _hasher.verify(stored, password)
        except Argon2Error:
            return False

    return await anyio.to_thread.run_sync(verify, limiter=AT_ONCE)
