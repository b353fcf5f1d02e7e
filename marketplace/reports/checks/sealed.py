"""I12: what is sealed is as it was, and the chain goes on from the head kept outside the database."""

from dataclasses import dataclass

from obstore.exceptions import BaseError as StorageError
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.recordings.storage import Storage
from marketplace.reports.checks.at_stripe import Finding
from marketplace.seals import service as seals


@dataclass(frozen=True)
class Kept:
    """The newest head of the chain of seals, as it was kept with the files."""

    head: str | None = None
    # Why it could not be read.
    unreadable: str | None = None


async def look_at_files(storage: Storage) -> Kept:
    try:
        return Kept(await seals.newest_kept(storage))
    except (OSError, StorageError) as error:
        return Kept(unreadable=str(error).partition("\n")[0])


async def whole(session: AsyncSession, kept: Kept) -> Finding:
    return Finding(
        await seals.violations(session, head=kept.head),
        unchecked=kept.unreadable and f"the head kept with the files: {kept.unreadable}",
    )
