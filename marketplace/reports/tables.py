"""A report is a table as of a moment: the same moment, the same bytes, as JSON or CSV."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from fastapi import Response

# Spreadsheets run a cell that begins with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True)
class Report:
    """`heading` stands above the lines in JSON; CSV has the lines alone."""

    as_of: datetime
    columns: tuple[str, ...]
    lines: Sequence[Mapping[str, Any]]
    heading: Mapping[str, Any] = field(default_factory=dict)
    name: str = "report"
    lines_name: str = "lines"


def respond(report: Report, format_: Format) -> Response:
    if format_ is Format.CSV:
        return Response(
            csv_of(report.columns, report.lines),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{report.name}.csv"'},
        )
    return Response(as_json(report), media_type="application/json")


def as_json(report: Report) -> str:
    lines = [{name: line[name] for name in report.columns} for line in report.lines]
    body = {"as_of": report.as_of, **report.heading, report.lines_name: lines}
    return json.dumps(body, default=_plain, ensure_ascii=False)


def csv_of(columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for line in lines:
        writer.writerow([_cell(line[name]) for name in columns])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Numbers stay numbers; text that a spreadsheet would run is made harmless."""
    if value is None or isinstance(value, int):
        return value
    text = str(_plain(value)) if not isinstance(value, str) else value
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date() | UUID():
            return str(value)
    raise TypeError(f"not for a report: {value!r}")
