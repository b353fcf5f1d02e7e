"""Rows as PostgreSQL's COPY writes them: the same text out of a live database and out of a dump.

Times must be written in UTC, as our sessions and `marketplace backup` have it.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

Row = Mapping[str, str | None]

# https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)")
ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
FIRST = b"--\n-- PostgreSQL database dump\n--\n"
LAST = b"-- PostgreSQL database dump complete\n"
HEADER = re.compile(r'COPY public\.(\w+) \(([\w", ]+)\) FROM stdin;\n')
END = "\\.\n"


def _row_of(columns: list[str], line: str) -> Row:
    return dict(zip(columns, map(_value, line.rstrip("\n").split("\t")), strict=True))


def _value(field: str) -> str | None:
    if field == "\\N":
        return None
    return ESCAPE.sub(_unescaped, field) if "\\" in field else field


def _unescaped(found: re.Match[str]) -> str:
    code = found.group(1)
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code[0] in "01234567" else ESCAPED.get(code, code)


def rows_of_dump(dump: Path, tables: set[str]) -> Iterator[tuple[str, Row]]:
    """(table, row) of these tables, out of a dump in pg_dump's plain format.

    Raises ValueError when it is no whole dump of that format, or a line does not fit its table's
    columns.
    """
    with dump.open("rb") as file:
        if file.read(len(FIRST)) != FIRST:
            raise ValueError("it is no dump that pg_dump --format=plain made")
        is_whole = False
        for line in file:
            is_whole |= line == LAST
            header = HEADER.fullmatch(line.decode()) if line.startswith(b"COPY public.") else None
            if header is None or header.group(1) not in tables:
                continue
            columns = [name.strip().strip('"') for name in header.group(2).split(",")]
            for row in _lines(file):
                yield header.group(1), _row_of(columns, row)
        if not is_whole:
            raise ValueError("the dump breaks off before its end")


def _lines(file: BinaryIO) -> Iterator[str]:
    for line in file:
        text = line.decode()
        if text == END:
            return
        yield text
    raise ValueError("the dump breaks off in the middle of a table")


def hash_of(table: str, row: Row) -> bytes:
    """SHA-256 of a row. NULLs are left out, so that a column added later changes no old hash."""
    filled = sorted((name, value) for name, value in row.items() if value is not None)
    return hashlib.sha256(json.dumps([table, filled], ensure_ascii=False).encode()).digest()
