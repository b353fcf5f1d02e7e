"""Checking a chain of seals against the rows it covers. Pure: from a live database or from a dump."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

HASH_BYTES = 32
HEAD = re.compile("[1-9][0-9]{0,17}:[0-9a-f]{64}")


@dataclass(frozen=True)
class Link:
    """One seal, as it is stored."""

    number: int
    sealed_to: datetime
    row_keys: Sequence[str]
    row_hashes: bytes
    previous_hash: str | None
    hash: str

    def computed_hash(self) -> str:
        content = [
            self.number,
            self.sealed_to.isoformat(),
            self.previous_hash,
            hashlib.sha256("\n".join(self.row_keys).encode()).hexdigest(),
            hashlib.sha256(self.row_hashes).hexdigest(),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def head(self) -> str:
        return f"{self.number}:{self.hash}"

    def rows(self) -> Iterator[tuple[str, bytes]]:
        for place, key in enumerate(self.row_keys):
            yield key, self.row_hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]


@dataclass(frozen=True)
class Found:
    """A row as it is now: its hash, and when it was booked, which for some their header tells."""

    hash: bytes
    booked_at: datetime | None
    header: str | None


def check(links: Sequence[Link], rows: Mapping[str, Found], *, head: str | None) -> list[str]:
    """What is wrong, the first bad row first; empty when the seal is whole.

    `head` is `number:hash` as it was kept elsewhere. Without it a chain that was made anew from its
    beginning, or cut off at its end, looks whole.
    """
    violations = [*_broken(links, rows), *_unsealed(links, rows)]
    if head is not None:
        violations += _compare_head(links, head)
    return violations


def _broken(links: Sequence[Link], rows: Mapping[str, Found]) -> Iterator[str]:
    previous: str | None = None
    sealed: set[str] = set()
    for number, link in enumerate(links, start=1):
        if link.number != number:
            yield f"seal {number} is missing"
            return
        for key, sealed_hash in link.rows():
            if key not in rows:
                yield f"{key}, sealed in {number}, is missing"
            elif rows[key].hash != sealed_hash:
                yield f"{key}, sealed in {number}, is not as it was"
            if key in sealed:
                yield f"{key} is sealed twice, in {number} again"
            sealed.add(key)
        if link.previous_hash != previous or link.computed_hash() != link.hash:
            yield f"seal {number} is not as it was"
        previous = link.hash


def _unsealed(links: Sequence[Link], rows: Mapping[str, Found]) -> Iterator[str]:
    """Rows that claim to be older than the last seal, and are in none."""
    if not links:
        return
    sealed = {key for link in links for key in link.row_keys}
    for key, row in rows.items():
        if key in sealed:
            continue
        header = rows.get(row.header) if row.header else None
        booked_at = header.booked_at if header else row.booked_at
        if booked_at is None or booked_at <= links[-1].sealed_to:
            yield f"{key} is in no seal, though booked before the last: it was added later"


def _compare_head(links: Sequence[Link], head: str) -> Iterator[str]:
    number, _, kept = head.partition(":")
    if not HEAD.fullmatch(head):
        yield f"{head[:80]} is no head of a chain: it is written number:hash"
    elif not links:
        yield f"nothing is sealed, the head kept is of seal {number}"
    elif int(number) > len(links):
        yield f"the chain ends at seal {len(links)}, the head kept is of {number}: its end was cut off"
    elif links[int(number) - 1].hash != kept:
        yield f"seal {number} is not the one whose head was kept: the chain was made anew"
