"""The API's own description: OpenAPI 3.1 with every error code, and an example of every body.

Examples are put together from the examples of the fields; a test checks each against its schema.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from marketplace.shared import problems
from marketplace.shared.idempotency import HEADER

Json = dict[str, Any]

ID = "01a2086e-1062-71bf-bf59-ec8fafc2dc31"
TIME = "2026-11-23T12:00:00Z"
# What a schema alone cannot say.
NAMED = {"currency": "USD", "elicitation": "improv_solo", "skills": ["improv"]}
FORMATS = {
    "uuid": ID,
    "date-time": TIME,
    "password": "a long sentence of your own",
    "binary": "…",
}


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
                _share_error_examples(operation, document["components"])
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


def _share_error_examples(operation: Json, components: Json) -> None:
    """Each code's example stands once in the document; the operations refer to it."""
    shared = components.setdefault("examples", {})
    for answer in operation["responses"].values():
        examples = answer.get("content", {}).get(problems.MEDIA_TYPE, {}).get("examples", {})
        for code in examples:
            shared.setdefault(code, examples[code])
            examples[code] = {"$ref": f"#/components/examples/{code}"}


def _add_examples(operation: Json, schemas: Json) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    bodies += operation["responses"].values()
    for body in bodies:
        content = body.get("content", {}).get("application/json")
        if content and content.get("schema"):
            content["example"] = example_of(content["schema"], schemas)
    for parameter in operation.get("parameters", []):
        if "example" not in parameter:
            parameter["example"] = example_of(parameter["schema"], schemas)


def example_of(schema: Json, schemas: Json) -> Any:
    """The schema's own example, or one made of its parts'."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for known in ("examples", "enum"):
        if schema.get(known):
            return schema[known][0]
    if "const" in schema:
        return schema["const"]
    if "default" in schema:
        return schema["default"]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas)
    return _example_of_type(schema, schemas)


def _example_of_type(schema: Json, schemas: Json) -> Any:
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {
                name: NAMED.get(name) or example_of(each, schemas)
                for name, each in properties.items()
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
