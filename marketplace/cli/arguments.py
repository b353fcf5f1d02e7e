"""What may stand on the command line."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from marketplace import __version__
from marketplace.cli import commands as work
from marketplace.installation import DEFAULT_DATA
from marketplace.seals.chain import HEAD

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
# A clock never goes back: a slip of the keyboard would leave the database in a year without end.
LONGEST_ADVANCE = 10 * 365 * UNITS["d"]


def complain(message: str) -> NoReturn:
    print(f"marketplace: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    """Complains as everything else does, without telling the whole usage."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see {self.prog} --help")


def options(arguments: Sequence[str]) -> argparse.Namespace:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            # What is not text could be sent, stored and shown nowhere.
            complain(f"this argument is not UTF-8: {argument!r}")
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="marketplace", description="Hire vetted improv performers; pay every approved second."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = _command(commands, "demo", work.demo, "tell the whole story on real parts")
    demo.add_argument("--once", action="store_true", help="exit after the story")
    demo.add_argument("--json", action="store_true", help="print one JSON object last")
    demo.add_argument("--performers", type=_from(1), default=4)
    demo.add_argument("--tasks", type=_from(1), default=6)
    demo.add_argument("--audio", type=Path, metavar="DIR", help="your own WAV or FLAC takes")
    _port(demo)

    serve = _command(commands, "serve", work.serve, "serve the API and do the background work")
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

    _command(commands, "migrate", work.migrate, "bring the database to this version's schema")

    sweep = _command(commands, "sweep", work.sweep, "run one sweep now")
    sweep.add_argument("name")

    simulate = _command(commands, "simulate", work.simulate, "let the demo's cast work on your job")
    simulate.add_argument("job_id", type=UUID)
    simulate.add_argument("--token", help="the client's, to read the job (or MARKETPLACE_TOKEN)")
    simulate.add_argument("--performers", type=_from(1), default=4)
    simulate.add_argument("--audio", type=Path, metavar="DIR", help="your own WAV or FLAC takes")

    verify = _command(
        commands,
        "verify",
        work.verify,
        "check every invariant on the live database; exits 1 if one is violated, 3 if none is but "
        "not all could be checked",
    )
    verify.add_argument("--json", action="store_true")
    verify.add_argument(
        "--seal",
        type=_head,
        metavar="HEAD",
        help="number:hash, as it was kept elsewhere: check the seal alone",
    )
    verify.add_argument(
        "--dump", type=Path, metavar="FILE", help="with --seal: of this dump, without a database"
    )

    _command(commands, "seal", work.seal, "seal what was booked so far; print the chain's head")

    backup = _command(commands, "backup", work.backup, "write a backup into a new folder")
    backup.add_argument("folder", type=Path)

    restore = _command(
        commands, "restore", work.restore, "load a backup where nothing is, and verify"
    )
    restore.add_argument("folder", type=Path)

    explain = _command(commands, "explain", work.explain, "follow any cent from end to end")
    explain.add_argument("id", help="of a payout, claim, ledger line, transfer …")

    _command(commands, "invite-operator", work.invite_operator, "invite an operator")

    reset = _command(
        commands, "reset-password", work.reset_password, "a one-time code, for an hour"
    )
    reset.add_argument("email")

    clock = _command(commands, "clock", work.clock, "move a virtual clock forward")
    clock.add_argument("--advance", type=_duration, required=True, metavar="3d12h30m5s")

    openapi = _command(commands, "openapi", work.openapi, "print the API's description")
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


def _head(text: str) -> str:
    if not HEAD.fullmatch(text):
        raise argparse.ArgumentTypeError("write it as `seal` printed it, number:hash")
    return text


def _duration(text: str) -> int:
    """`2d6h` and the like, in seconds."""
    if not re.fullmatch("([0-9]{1,99}[dhms]){1,9}", text):
        raise argparse.ArgumentTypeError("write it like 2d6h or 90s")
    parts = re.findall("([0-9]+)([dhms])", text)
    total = sum(int(number) * UNITS[unit] for number, unit in parts)
    if not 0 < total <= LONGEST_ADVANCE:
        raise argparse.ArgumentTypeError("must be from a second to ten years (3650d)")
    return total
