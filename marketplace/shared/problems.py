"""Errors as RFC 9457 problem details: a status, a stable code, a sentence that says what to do."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"

JsonObject = dict[str, Any]


class Problem(Exception):
    """Something went wrong.

    The first line of a subclass's docstring is its title. `detail` says what to do in this case;
    `extra` adds members to the answer.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, detail: str = "", *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(detail or self.title())
        self.detail = detail or self.title()
        self.headers = dict(headers or {})
        self.extra = extra

    @classmethod
    def title(cls) -> str:
        return (inspect.getdoc(cls) or cls.__name__).splitlines()[0]

    def answer(self) -> JSONResponse:
        body = {
            "type": f"urn:marketplace:problem:{self.code}",
            "title": self.title(),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.extra,
        }
        return JSONResponse(
            body, status_code=self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


class NotFound(Problem):
    """There is no such thing here, or it is not yours."""

    status, code = 404, "not_found"


class Conflict(Problem):
    """The current state does not allow this."""

    status, code = 409, "conflict"


class MoveNotAllowed(Conflict):
    """The state of this does not allow that move."""

    code = "move_not_allowed"


class Unauthorized(Problem):
    """Sign in first: the token is missing, unknown, expired or revoked."""

    status, code = 401, "unauthorized"

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"}, **extra)


class Forbidden(Problem):
    """Your role does not allow this."""

    status, code = 403, "forbidden"


class InvalidRequest(Problem):
    """The request is malformed; each field at fault is listed."""

    status, code = 422, "invalid_request"


class BadRequest(Problem):
    """The request cannot be read."""

    status, code = 400, "bad_request"


class BodyTooLarge(Problem):
    """The request's body is larger than this operation takes."""

    status, code = 413, "body_too_large"


class TooManyRequests(Problem):
    """Too many tries; wait as long as Retry-After says."""

    status, code = 429, "too_many_requests"


class TryAgain(Problem):
    """Too much is asked for at this moment; nothing was done, try again."""

    status, code = 503, "try_again"

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail, headers={"Retry-After": "1"}, **extra)


class InternalError(Problem):
    """Something failed on our side; nothing was done."""


class InvalidField(InvalidRequest):
    """The request is malformed; each field at fault is listed.

    For rules that a schema cannot state: `InvalidField("body.roles", "at least one role")`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(
            f"{field}: {message}",
            errors=[{"field": field, "message": message, "type": "value_error"}],
        )


async def answer_problem(_request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, Problem)
    return problem.answer()


async def answer_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {
            "field": ".".join(str(part) for part in each["loc"]),
            "message": each["msg"],
            "type": each["type"],
        }
        for each in error.errors()
    ]
    return InvalidRequest(errors=errors).answer()


async def answer_http_exception(_request: Request, error: Exception) -> JSONResponse:
    """Errors of the framework itself (no such path, wrong method, body too large)."""
    assert isinstance(error, HTTPException)
    code = {404: "no_such_path", 405: "method_not_allowed", 413: "body_too_large"}
    body = {
        "type": "about:blank",
        "title": str(error.detail),
        "status": error.status_code,
        "code": code.get(error.status_code, "bad_request"),
        "detail": str(error.detail),
    }
    return JSONResponse(
        body, status_code=error.status_code, headers=error.headers, media_type=MEDIA_TYPE
    )


async def answer_nobody(_request: Request, _error: Exception) -> Response:
    """The client hung up before its request was whole: no fault of ours, and nobody listens."""
    return Response(status_code=400)


async def answer_unexpected(_request: Request, _error: Exception) -> JSONResponse:
    return InternalError().answer()


def documented(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: for each status, its codes with an example of each."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        entry = responses.setdefault(
            problem.status,
            {
                "description": "",
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        examples = entry["content"][MEDIA_TYPE]["examples"]
        examples[problem.code] = {
            "value": {
                "type": f"urn:marketplace:problem:{problem.code}",
                "title": problem.title(),
                "status": problem.status,
                "code": problem.code,
                "detail": problem.title(),
            }
        }
        entry["description"] = ", ".join(examples)
    return responses


PROBLEM_SCHEMA: JsonObject = {
    "title": "Problem",
    "description": "RFC 9457 problem details. `code` is stable; switch on it.",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "allowed_moves": {"type": "array", "items": {"type": "string"}},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message", "type"],
                "properties": {
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                },
            },
        },
    },
}
