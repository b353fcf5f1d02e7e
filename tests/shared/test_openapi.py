"""The description that engineers integrate by: its examples are real, and its page needs no network."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from marketplace.cli import api_description
from marketplace.examples import REPORT
from marketplace.reports import finance
from marketplace.shared.problems import MEDIA_TYPE
from tests.world import TAKE, Client, Json, Person, World, upload

DOCUMENT: Json = json.loads(api_description())
OPERATIONS = {
    operation["operationId"]: operation
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
}
MADE_UP: tuple[Any, ...] = ("text", "…", {})
# Money and counts of which there may well be none.
MAY_BE_ZERO = {
    *("adjustments_minor", "held_minor", "paid_minor", "sending_minor", "sum_minor"),
    *(
        "adjusted_minor",
        "alarm_minor",
        "booked_earlier_minor",
        "booked_later_minor",
        "ledger_sum_minor",
    ),
    *(
        "disputed_minor",
        "owed_minor",
        "opening_minor",
        "released_minor",
        "returned_minor",
        "retakes_granted",
    ),
    *("reversed_minor", "taken_back_minor", "owed_back_minor", "platform_minor"),
}


def contents(operation: Json) -> Iterator[tuple[str, Json]]:
    """Of the request and of each answer, with their media type."""
    for body in (operation.get("requestBody", {}), *operation["responses"].values()):
        yield from body.get("content", {}).items()


def examples(operation: Json) -> Iterator[Any]:
    """All that a reader could copy."""
    for parameter in operation.get("parameters", []):
        yield {parameter["name"]: parameter["example"]}
    for media_type, content in contents(operation):
        if media_type != MEDIA_TYPE:
            yield content["example"]


def leaves(example: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    match example:
        case dict() if example:
            for key, value in example.items():
                yield from leaves(value, key)
        case list():
            for item in example:
                yield from leaves(item, name)
        case _:
            yield name, example


def objects(example: Any) -> Iterator[Json]:
    match example:
        case dict():
            yield example
            for value in example.values():
                yield from objects(value)
        case list():
            for item in example:
                yield from objects(item)


def faults(schema: Json, example: Any) -> list[str]:
    whole = {**schema, "components": DOCUMENT["components"]}
    validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    return [str(error) for error in validator.iter_errors(example)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_example_is_what_its_schema_says(name: str) -> None:
    for parameter in OPERATIONS[name].get("parameters", []):
        assert faults(parameter["schema"], parameter["example"]) == [], parameter["name"]
    for media_type, content in contents(OPERATIONS[name]):
        given = [content["example"]] if "example" in content else []
        given += [DOCUMENT["components"]["examples"][each]["value"] for each in _shared(content)]
        assert given, media_type
        for example in given:
            assert faults(content["schema"], example) == [], media_type


def _shared(content: Json) -> list[str]:
    references = content.get("examples", {}).values()
    return [reference["$ref"].rpartition("/")[2] for reference in references]


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_example_is_a_placeholder(name: str) -> None:
    for example in examples(OPERATIONS[name]):
        for field, value in leaves(example):
            assert value not in MADE_UP, field
            assert type(value) is not int or value or field in MAY_BE_ZERO, field


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_answer_says_what_it_holds(name: str) -> None:
    for status, answer in OPERATIONS[name]["responses"].items():
        # What many operations answer stands once in the document.
        shared = "$ref" in answer
        assert (shared or "content" in answer) == (status != "204"), status
        if "content" in answer and status < "300":
            schema = answer["content"].get("application/json", {}).get("schema", {})
            assert schema != {"type": "object"}, "any object conforms to that"


def test_seconds_by_rate_are_the_pay_in_every_example() -> None:
    lines = [
        line
        for operation in OPERATIONS.values()
        for example in examples(operation)
        for line in objects(example)
        if "rate_minor_per_hour" in line and ({"seconds", "paid_seconds"} & line.keys())
    ]
    assert lines
    for line in lines:
        seconds = line["seconds"] if "seconds" in line else line["paid_seconds"]
        pay = line["pay_minor"] if "pay_minor" in line else line["gross_minor"]
        assert pay == (2 * seconds * line["rate_minor_per_hour"] + 3_600) // 7_200


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("read_payout_report", finance.PAYOUT_COLUMNS),
        ("read_rate_report", finance.RATE_COLUMNS),
        ("read_trial_balance", finance.TRIAL_BALANCE_COLUMNS),
    ],
)
def test_a_report_shows_the_columns_of_its_csv(name: str, columns: tuple[str, ...]) -> None:
    example = OPERATIONS[name]["responses"]["200"]["content"]["text/csv"]["example"]
    header, *lines = csv.reader(io.StringIO(example))
    assert tuple(header) == columns
    assert {len(line) for line in lines} == {len(columns)}


def test_the_report_on_a_take_is_shown_in_its_shape(
    world: World, acme: Client, ana: Person
) -> None:
    claim = world.claim(ana, world.published_job(acme))
    recording = upload(ana, f"/v1/claims/{claim['id']}/recordings", TAKE.read_bytes())
    world.sweep("recordings")
    report = ana.get(f"/v1/recordings/{recording['id']}")["report"]
    assert report.keys() == REPORT.keys()
    assert report["results"][0].keys() == REPORT["results"][0].keys()
    assert report["measurement"].items() >= {"container": "FLAC", "channels": 1}.items()
    assert report["measurement"].keys() >= REPORT["measurement"].keys()


class TestInteractivePage:
    def test_it_loads_nothing_from_elsewhere(self, world: World) -> None:
        page = world.anybody.ask("GET", "/docs")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        linked = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
        assert linked
        for path in linked:
            assert path.startswith("/"), path
            assert not path.startswith("//"), path
            loaded = world.anybody.ask("GET", path)
            assert loaded.status_code == 200, path
            assert loaded.content
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page.text) == []

    def test_it_shows_the_checked_description(self, world: World) -> None:
        page = world.anybody.ask("GET", "/docs").text
        (path,) = re.findall(r"""url: ["']([^"']+)["']""", page)
        assert world.anybody.get(path) == DOCUMENT
