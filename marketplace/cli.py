"""The command line. A bad argument or variable, or a part that does not answer, is one line on
stderr and exit code 2.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import httpx
import pydantic
import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace import __version__, installation
from marketplace.installation import DEFAULT_DATA, InstallationError
from marketplace.shared.settings import Settings

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
# A clock never goes back: a slip of the keyboard would leave the database in a year without end.
LONGEST_ADVANCE = 10 * 365 * UNITS["d"]


def main(arguments: list[str] | None = None) -> None:
    options = _options(sys.argv[1:] if arguments is None else arguments)
    try:
        code = options.run(options)
    except InstallationError as error:
        _complain(str(error))
    except pydantic.ValidationError as error:
        at_fault = ", ".join(
            f"{'.'.join(map(str, each['loc'])).upper()} ({each['msg']})" for each in error.errors()
        )
        _complain(f"check these environment variables: {at_fault}")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (reason := _no_answer(error)) is None:
            raise
        _complain(reason)
    sys.exit(code or 0)


def _no_answer(error: Exception) -> str | None:
    """What a part that we work with gave instead of an answer; None for a fault of our own."""
    from marketplace.shared.problems import Problem
    from marketplace.stripe_api.polling import STRIPE_ERRORS

    if isinstance(error, STRIPE_ERRORS):
        return f"Stripe does not answer as it should: {error}"
    match error:
        case Problem():
            return error.detail
        case sa.exc.DBAPIError():
            return f"the database does not answer as it should: {error.orig}".partition("\n")[0]
        case sa.exc.TimeoutError():
            return "the database has no connection free"
        case httpx.HTTPError() | ConnectionError() | TimeoutError():
            return f"{type(error).__name__}: {error}"
    return None


def _complain(message: str) -> NoReturn:
    print(f"marketplace: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    """Complains as everything else does, without telling the whole usage."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message}; see {self.prog} --help")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            # What is not text could be sent, stored and shown nowhere.
            _complain(f"this argument is not UTF-8: {argument!r}")
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="marketplace", description="Hire vetted improv performers; pay every approved second."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "tell the whole story on real parts")
    demo.add_argument("--once", action="store_true", help="exit after the story")
    demo.add_argument("--json", action="store_true", help="print one JSON object last")
    demo.add_argument("--performers", type=_from(1), default=4)
    demo.add_argument("--tasks", type=_from(1), default=6)
    demo.add_argument("--audio", type=Path, metavar="DIR", help="your own WAV or FLAC takes")
    _port(demo)

    serve = _command(commands, "serve", _serve, "serve the API and do the background work")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--no-sweeps", action="store_true", help="leave sweeps to other processes")
    serve.add_argument(
        "--virtual-clock", action="store_true", help="a new database whose time can be moved"
    )
    serve.add_argument(
        "--share-port", action="store_true", help="let several processes serve one port"
    )
    serve.add_argument(
        "--until-stdin-ends",
        action="store_true",
        help="stop when standard input does: with the program that holds it open",
    )
    _port(serve)

    _command(commands, "migrate", _migrate, "bring the database to this version's schema")

    sweep = _command(commands, "sweep", _sweep, "run one sweep now")
    sweep.add_argument("name")

    simulate = _command(commands, "simulate", _simulate, "let the demo's cast work on your job")
    simulate.add_argument("job_id", type=UUID)
    simulate.add_argument("--token", help="the client's, to read the job (or MARKETPLACE_TOKEN)")
    simulate.add_argument("--performers", type=_from(1), default=4)
    simulate.add_argument("--audio", type=Path, metavar="DIR", help="your own WAV or FLAC takes")

    verify = _command(
        commands,
        "verify",
        _verify,
        "check every invariant on the live database; exits 1 if one is violated, 3 if none is but "
        "not all could be checked",
    )
    verify.add_argument("--json", action="store_true")
    verify.add_argument(
        "--seal", metavar="HEAD", help="number:hash, as it was kept elsewhere: check the seal alone"
    )
    verify.add_argument(
        "--dump", type=Path, metavar="FILE", help="with --seal: of this dump, without a database"
    )

    _command(commands, "seal", _seal, "seal what was booked so far; print the chain's head")

    backup = _command(commands, "backup", _backup, "write a backup into a new folder")
    backup.add_argument("folder", type=Path)

    restore = _command(commands, "restore", _restore, "load a backup where nothing is, and verify")
    restore.add_argument("folder", type=Path)

    explain = _command(commands, "explain", _explain, "follow any cent from end to end")
    explain.add_argument("id", help="of a payout, claim, ledger line, transfer …")

    _command(commands, "invite-operator", _invite_operator, "invite an operator")

    reset = _command(commands, "reset-password", _reset_password, "a one-time code, for an hour")
    reset.add_argument("email")

    clock = _command(commands, "clock", _clock, "move a virtual clock forward")
    clock.add_argument("--advance", type=_duration, required=True, metavar="3d12h30m5s")

    openapi = _command(commands, "openapi", _openapi, "print the API's description")
    openapi.add_argument("--check", type=Path, metavar="FILE", help="fail if FILE differs")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--data", type=Path, default=DEFAULT_DATA, help="data folder (default: ./data)"
    )
    parser.set_defaults(run=run)
    return parser


def _port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_from(0, 65_535), default=8000, help="0 takes a free port")


def _from(least: int, most: int = 10_000) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def _duration(text: str) -> int:
    """`2d6h` and the like, in seconds."""
    if not re.fullmatch("([0-9]{1,99}[dhms]){1,9}", text):
        raise argparse.ArgumentTypeError("write it like 2d6h or 90s")
    parts = re.findall("([0-9]+)([dhms])", text)
    total = sum(int(number) * UNITS[unit] for number, unit in parts)
    if not 0 < total <= LONGEST_ADVANCE:
        raise argparse.ArgumentTypeError("must be from a second to ten years (3650d)")
    return total


def _demo(options: argparse.Namespace) -> int:
    from marketplace.demo import program

    return program.run(options)


def _simulate(options: argparse.Namespace) -> int:
    from marketplace.demo import program

    return program.simulate(options)


def _serve(options: argparse.Namespace) -> None:
    from marketplace import server

    # A plain kill, too, stops what we started: uvicorn raises the signal again when it is done.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if options.until_stdin_ends:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with (
        server.listen(options.host, options.port, shared=options.share_port) as listener,
        installation.parts_in(options.data, virtual_clock=options.virtual_clock) as parts,
    ):
        public_url = os.environ.get("PUBLIC_URL") or "http://{}:{}".format(*listener.getsockname())
        variables = {**parts, "PUBLIC_URL": public_url}
        settings = _settings(variables)
        with installation.announced(options.data, variables):
            server.serve(settings, listener, sweeps=not options.no_sweeps)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _migrate(options: argparse.Namespace) -> None:
    if os.environ.get("DATABASE_URL") and not os.environ.get("MIGRATION_DATABASE_URL"):
        raise InstallationError("set MIGRATION_DATABASE_URL to the login that owns the database")
    with installation.database_in(options.data):
        print("the database is up to date")


def _sweep(options: argparse.Namespace) -> None:
    from marketplace.scheduler import SWEEPS

    if options.name not in SWEEPS:
        raise InstallationError(f"no such sweep; choose one of {', '.join(SWEEPS)}")

    async def run(parts: Any) -> int:
        return await SWEEPS[options.name].run(parts)

    with installation.parts_for_command(options.data) as variables:
        print(f"{options.name}: {asyncio.run(_with_parts(variables, run))}")


def _verify(options: argparse.Namespace) -> int:
    from marketplace.reports import verify

    if options.seal or options.dump:
        return _verify_seal(options)

    async def run(parts: Any) -> verify.Findings:
        return await verify.verify(parts.sessions, parts.gateway)

    with installation.parts_for_command(options.data) as variables:
        found = asyncio.run(_with_parts(variables, run))
    if options.json:
        print(json.dumps(verify.summary(found)))
    else:
        print("\n".join(verify.lines(found)))
    return verify.exit_code(found)


def _verify_seal(options: argparse.Namespace) -> int:
    from marketplace.seals import service as seals

    async def look(parts: Any) -> list[str]:
        async with parts.sessions() as session:
            return await seals.violations(session, head=options.seal)

    if options.dump is None:
        with installation.parts_for_command(options.data) as variables:
            violations: list[str] = asyncio.run(_with_parts(variables, look))
    else:
        try:
            violations = seals.violations_of_dump(options.dump, head=options.seal)
        except (OSError, ValueError) as error:
            raise InstallationError(f"{options.dump} cannot be checked: {error}") from error
    print("\n".join(violations) or "the seal is whole")
    return 1 if violations else 0


def _seal(options: argparse.Namespace) -> None:
    with installation.parts_for_command(options.data) as variables:
        print(asyncio.run(_with_parts(variables, _sealed)) or "nothing to seal yet")


async def _sealed(parts: Any) -> str | None:
    from marketplace.seals import service as seals

    return await seals.seal_and_export(parts.sessions, parts.storage)


def _backup(options: argparse.Namespace) -> None:
    from marketplace import backups

    with installation.parts_for_command(options.data) as variables:
        head = asyncio.run(_with_parts(variables, _sealed))
        backups.make(options.folder, options.data, variables, head=head)
    print(f"{options.folder} holds everything up to seal {head or 'none'}")


def _restore(options: argparse.Namespace) -> int:
    from marketplace import backups

    backups.restore(options.folder, options.data)
    options.json, options.dump, options.seal = False, None, None
    code = _verify(options)
    if (head := backups.head_of(options.folder)) is not None:
        options.seal = head
        code = max(code, _verify_seal(options))
    return code


def _explain(options: argparse.Namespace) -> int:
    from marketplace.reports import explain

    async def run(parts: Any) -> Any:
        async with parts.sessions() as session:
            return await explain.explain(session, options.id)

    with installation.parts_for_command(options.data) as variables:
        tree = asyncio.run(_with_parts(variables, run))
    if tree is None:
        raise InstallationError(f"nothing that carries money has the id {options.id}")
    print("\n".join(explain.lines(tree)))
    return 0 if tree.complete else 1


def _invite_operator(options: argparse.Namespace) -> None:
    from marketplace.accounts import service
    from marketplace.accounts.models import Role

    async def work(session: AsyncSession) -> service.Granted:
        return await service.invite(session, role=Role.OPERATOR, invited_by=None)

    print(_in_transaction(options, work).secret)


def _reset_password(options: argparse.Namespace) -> None:
    from marketplace.accounts import service
    from marketplace.shared.problems import NotFound

    async def work(session: AsyncSession) -> service.Granted:
        try:
            return await service.password_reset_code(session, email=options.email)
        except NotFound as error:
            raise InstallationError(error.detail) from error

    print(_in_transaction(options, work).secret)


def _in_transaction(
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
        return asyncio.run(_with_parts(variables, run))


async def _with_parts(variables: dict[str, str], run: Callable[[Any], Awaitable[Any]]) -> Any:
    from marketplace.app import parts_of

    async with parts_of(_settings(variables, database_pool_size=2)) as parts:
        return await run(parts)


def _settings(variables: Mapping[str, str], **overrides: Any) -> Settings:
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


def _clock(options: argparse.Namespace) -> None:
    with installation.parts_for_command(options.data) as variables:
        owner_url = installation.owner_url(variables)
        if owner_url is None:
            raise InstallationError("set MIGRATION_DATABASE_URL: only the owner moves the clock")
        offset = installation.advance_clock(
            owner_url, variables.get("STRIPE_API_BASE"), options.advance
        )
    print(f"{offset} seconds ahead")


def _openapi(options: argparse.Namespace) -> int:
    text = api_description()
    if options.check is None:
        sys.stdout.write(text)
        return 0
    try:
        checked_in = options.check.read_bytes()
    except OSError as error:
        raise InstallationError(f"{options.check} cannot be read: {error.strerror}") from error
    if checked_in != text.encode():
        raise InstallationError(
            f"{options.check} differs from the code: run `marketplace openapi > {options.check}`"
        )
    return 0


def api_description() -> str:
    """The OpenAPI document as it is checked in. Opens no connection."""
    from marketplace.app import create_app

    unused = {
        "database_url": "postgresql://unused",
        "stripe_api_key": "sk_test_unused",
        "stripe_webhook_secret": "unused",
        "stripe_connect_webhook_secret": "unused",
        "storage_url": "unused",
    }
    document = create_app(installation.settings_from(unused), sweeps=False).openapi()
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
