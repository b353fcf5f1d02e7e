"""What each command does, after its options were read."""

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace import installation
from marketplace.cli.parts import in_transaction, settings_with_storage, with_parts
from marketplace.installation import InstallationError


def demo(options: argparse.Namespace) -> int:
    from marketplace.demo import program

    return program.run(options)


def simulate(options: argparse.Namespace) -> int:
    from marketplace.demo import program

    return program.simulate(options)


def serve(options: argparse.Namespace) -> None:
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
        settings = settings_with_storage(variables)
        with installation.announced(options.data, variables):
            server.serve(settings, listener, sweeps=not options.no_sweeps)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def migrate(options: argparse.Namespace) -> None:
    if os.environ.get("DATABASE_URL") and not os.environ.get("MIGRATION_DATABASE_URL"):
        raise InstallationError("set MIGRATION_DATABASE_URL to the login that owns the database")
    with installation.database_in(options.data):
        print("the database is up to date")


def sweep(options: argparse.Namespace) -> None:
    from marketplace.scheduler import SWEEPS

    if options.name not in SWEEPS:
        raise InstallationError(f"no such sweep; choose one of {', '.join(SWEEPS)}")

    async def run(parts: Any) -> int:
        return await SWEEPS[options.name].run(parts)

    with installation.parts_for_command(options.data) as variables:
        print(f"{options.name}: {asyncio.run(with_parts(variables, run))}")


def verify(options: argparse.Namespace) -> int:
    from marketplace.reports import verify

    if options.seal is not None:
        return _verify_seal(options)
    if options.dump is not None:
        # Without it a dump whose end was cut off looks whole.
        raise InstallationError("--dump is checked against a head kept elsewhere: give --seal, too")

    async def run(parts: Any) -> verify.Findings:
        return await verify.verify(parts.sessions, parts.gateway, parts.storage)

    with installation.parts_for_command(options.data) as variables:
        found = asyncio.run(with_parts(variables, run))
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
            violations: list[str] = asyncio.run(with_parts(variables, look))
    else:
        try:
            violations = seals.violations_of_dump(options.dump, head=options.seal)
        except (OSError, ValueError) as error:
            raise InstallationError(f"{options.dump} cannot be checked: {error}") from error
    print("\n".join(violations) or "the seal is whole")
    return 1 if violations else 0


def seal(options: argparse.Namespace) -> None:
    with installation.parts_for_command(options.data) as variables:
        print(asyncio.run(with_parts(variables, _sealed)) or "nothing to seal yet")


async def _sealed(parts: Any) -> str | None:
    from marketplace.seals import service as seals

    return await seals.seal_and_export(parts.sessions, parts.storage)


def backup(options: argparse.Namespace) -> None:
    from marketplace import backups

    with installation.parts_for_command(options.data) as variables:
        head = asyncio.run(with_parts(variables, _sealed))
        backups.make(options.folder, options.data, variables, head=head)
    print(f"{options.folder} holds everything up to seal {head or 'none'}")


def restore(options: argparse.Namespace) -> int:
    from marketplace import backups

    backups.restore(options.folder, options.data)
    options.json, options.dump, options.seal = False, None, None
    code = verify(options)
    if (head := backups.head_of(options.folder)) is not None:
        options.seal = head
        code = max(code, _verify_seal(options))
    return code


def explain(options: argparse.Namespace) -> int:
    from marketplace.reports import explain

    async def run(parts: Any) -> Any:
        async with parts.sessions() as session:
            return await explain.explain(session, options.id)

    with installation.parts_for_command(options.data) as variables:
        tree = asyncio.run(with_parts(variables, run))
    if tree is None:
        raise InstallationError(f"nothing that carries money has the id {options.id}")
    print("\n".join(explain.lines(tree)))
    return 0 if tree.complete else 1


def invite_operator(options: argparse.Namespace) -> None:
    from marketplace.accounts import service
    from marketplace.accounts.models import Role

    async def work(session: AsyncSession) -> service.Granted:
        return await service.invite(session, role=Role.OPERATOR, invited_by=None)

    print(in_transaction(options, work).secret)


def reset_password(options: argparse.Namespace) -> None:
    from marketplace.accounts import service
    from marketplace.shared.problems import NotFound

    async def work(session: AsyncSession) -> service.Granted:
        try:
            return await service.password_reset_code(session, email=options.email)
        except NotFound as error:
            raise InstallationError(error.detail) from error

    print(in_transaction(options, work).secret)


def clock(options: argparse.Namespace) -> None:
    with installation.parts_for_command(options.data) as variables:
        owner_url = installation.owner_url(variables)
        if owner_url is None:
            raise InstallationError("set MIGRATION_DATABASE_URL: only the owner moves the clock")
        offset = installation.advance_clock(
            owner_url, variables.get("STRIPE_API_BASE"), options.advance
        )
    print(f"{offset} seconds ahead")


def openapi(options: argparse.Namespace) -> int:
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
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
