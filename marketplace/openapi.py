"""The API's own description: OpenAPI 3.1 with every error code, and an example of every body.

Examples are put together from the examples of the fields; a test checks each against its schema.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from marketplace.examples import ASKED, FORMATS, NAMED, TAKE, Json
from marketplace.reports.tables import csv_of
from marketplace.shared import problems
from marketplace.shared.idempotency import HEADER


def describe(app: FastAPI) -> Json:
    """Built once, without opening any connection."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = problems.PROBLEM_SCHEMA
        for path in document["paths"].values():
            for operation in path.values():
                _drop_key_of_nobody(operation)
                _add_common_errors(operation)
                _add_examples(operation, schemas)
                _share_errors(operation, document["components"])
        for framework_error in ("HTTPValidationError", "ValidationError"):
            schemas.pop(framework_error, None)
        app.openapi_schema = document
    return app.openapi_schema


def _drop_key_of_nobody(operation: Json) -> None:
    """Where nobody is signed in, an idempotency key has no owner and is not looked at."""
    if "security" not in operation and "parameters" in operation:
        named = [each for each in operation.pop("parameters") if each["name"] != HEADER]
        operation |= {"parameters": named} if named else {}


def _add_common_errors(operation: Json) -> None:
    """What any operation of its kind may answer, besides what its route documents."""
    common: list[type[problems.Problem]] = [problems.TryAgain]
    if "security" in operation:
        common += [problems.Unauthorized, problems.Forbidden]
    if "requestBody" in operation or "parameters" in operation:
        common += [problems.BadRequest, problems.InvalidRequest]
    if "requestBody" in operation:
        common += [problems.BodyTooLarge]
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", [])):
        common += [problems.NotFound]
    answers = operation["responses"]
    if "application/json" in answers.get("422", {}).get("content", {}):
        # The framework's own description of validation errors; ours is a problem like any other.
        del answers["422"]
    for status, answer in problems.documented(*common).items():
        known = answers.setdefault(str(status), answer)
        if known is not answer:
            examples = known["content"][problems.MEDIA_TYPE]["examples"]
            examples.update(answer["content"][problems.MEDIA_TYPE]["examples"])
            known["description"] = ", ".join(examples)


def _share_errors(operation: Json, components: Json) -> None:
    """Each code stands once in the document, and so does each answer that has one code alone."""
    examples, answers = (components.setdefault(name, {}) for name in ("examples", "responses"))
    for status, answer in operation["responses"].items():
        codes = answer.get("content", {}).get(problems.MEDIA_TYPE, {}).get("examples", {})
        for code in codes:
            examples.setdefault(code, codes[code])
            codes[code] = {"$ref": f"#/components/examples/{code}"}
        if len(codes) == 1 and answers.setdefault(code, answer) == answer:
            operation["responses"][status] = {"$ref": f"#/components/responses/{code}"}


def _add_examples(operation: Json, schemas: Json) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    bodies += operation["responses"].values()
    for body in bodies:
        for media_type, content in body.get("content", {}).items():
            if media_type != problems.MEDIA_TYPE and "example" not in content:
                content["example"] = _example_of_body(media_type, body["content"], schemas)
    for parameter in operation.get("parameters", []):
        if "example" not in parameter:
            parameter["example"] = _example_of_field(
                parameter["name"], parameter["schema"], schemas
            )


def _example_of_body(media_type: str, content: Json, schemas: Json) -> Any:
    match media_type:
        case "application/json":
            return example_of(content[media_type]["schema"], schemas)
        case "text/csv":
            return _lines_as_csv(example_of(content["application/json"]["schema"], schemas))
    return TAKE


def _lines_as_csv(report: Json) -> str:
    """A report's last list is its lines; CSV has them alone."""
    lines = [each for each in report.values() if isinstance(each, list)][-1]
    return csv_of(tuple(lines[0]), lines)


def example_of(schema: Json, schemas: Json) -> Any:
    """The schema's own example, or one made of its parts'."""
    for known in ("examples", "enum"):
        if schema.get(known):
            return schema[known][0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "const" in schema:
        return schema["const"]
    if "default" in schema:
        return schema["default"]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas)
    return _example_of_type(schema, schemas)


def _example_of_field(name: str, schema: Json, schemas: Json) -> Any:
    """Its own example, else what its name stands for."""
    if "examples" in schema or name not in {**NAMED, **ASKED}:
        return example_of(schema, schemas)
    return NAMED[name] if name in NAMED else example_of(schemas[ASKED[name]], schemas)


def _example_of_type(schema: Json, schemas: Json) -> Any:
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {
                name: _example_of_field(name, each, schemas) for name, each in properties.items()
            }
        case "array":
            return [example_of(schema["items"], schemas)]
        case "string":
            return FORMATS.get(schema.get("format", ""), "text")
        case "integer":
            return int(max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1))
        case "boolean":
            return True
    return None
