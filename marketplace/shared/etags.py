"""Edits name the version they saw, so that nobody overwrites what they have not read."""

from typing import Annotated, ClassVar

from fastapi import Depends, Header, Response

from marketplace.shared.problems import Problem


class VersionMissing(Problem):
    """Send If-Match with the ETag you read, so that no newer edit is overwritten."""

    status: ClassVar[int] = 428
    code: ClassVar[str] = "version_missing"


class VersionOutdated(Problem):
    """This was edited since you read it; read it again."""

    status: ClassVar[int] = 412
    code: ClassVar[str] = "version_outdated"


async def _seen_version(
    if_match: Annotated[
        str | None, Header(description='The ETag you read, such as "3"', examples=['"3"'])
    ] = None,
) -> str:
    if if_match is None:
        raise VersionMissing
    return if_match


SeenVersion = Annotated[str, Depends(_seen_version)]


def require_seen(seen: str, version: int) -> None:
    if seen != f'"{version}"':
        raise VersionOutdated


def set_etag(response: Response, version: int) -> None:
    response.headers["ETag"] = f'"{version}"'
