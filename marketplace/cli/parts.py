"""The parts of the product that a command works with."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace import installation
from marketplace.installation import InstallationError
from marketplace.shared.settings import Settings


def in_transaction(
    options: argparse.Namespace, work: Callable[[AsyncSession], Awaitable[Any]]
) -> Any:
    from marketplace.shared import audit

    async def run(parts: Any) -> Any:
        async with parts.sessions() as session:
            await audit.act_as(session, "command line")
            result = await work(session)
            await session.commit()
            return result

    with installation.parts_for_command(options.data) as variables:
        return asyncio.run(with_parts(variables, run))


async def with_parts(variables: dict[str, str], run: Callable[[Any], Awaitable[Any]]) -> Any:
    from marketplace.app import parts_of

    async with parts_of(settings_with_storage(variables, database_pool_size=2)) as parts:
        return await run(parts)


def settings_with_storage(variables: Mapping[str, str], **overrides: Any) -> Settings:
    """The settings, once the storage that they name was opened. Raises InstallationError."""
    from obstore.exceptions import BaseError as StorageError

    from marketplace.recordings.storage import open_storage

    settings = installation.settings_from(variables, **overrides)
    try:
        open_storage(settings.storage_url)
    except OSError as error:
        raise InstallationError(f"STORAGE_URL cannot be used: {error.strerror}") from error
    except (ValueError, StorageError) as error:
        cause = str(error).partition("\n")[0]
        raise InstallationError(f"STORAGE_URL cannot be used: {cause}") from error
    return settings
