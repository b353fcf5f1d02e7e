"""One request is one transaction, committed before the answer is sent.

Work placed after `yield` in a FastAPI dependency runs after the answer went out, so that a commit
that fails there has already answered 200. `TransactionalRoute` holds the session around the
handler instead, and stores the answer of a keyed POST in that same transaction.
"""

import inspect
import json
import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared import idempotency
from marketplace.shared.database import sqlstate
from marketplace.shared.problems import Problem, TryAgain
from marketplace.shared.settings import Settings

# lock_not_available, deadlock_detected, serialization_failure, query_canceled,
# idle_in_transaction_session_timeout
BUSY = {"55P03", "40P01", "40001", "57014", "25P03"}

KEY_REQUIRED = Depends(idempotency.require_key)
OWN_KEY = Depends(idempotency.own_key)
SECRET_ANSWER = Depends(idempotency.shown_once)


class StrictRequest(Request):
    """Reads JSON as strictly as a ledger must: no NaN, no duplicate names, no lone surrogates."""

    async def json(self) -> Any:
        if not hasattr(self, "_strict_json"):
            self._strict_json = parse_json(await self.body())
        return self._strict_json


class DocumentedRoute(APIRoute):
    """Summary and description come from the handler's docstring."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        words = (inspect.getdoc(endpoint) or "").partition("\n")
        options["summary"] = options.get("summary") or words[0].rstrip(".")
        options["description"] = options.get("description") or words[2].strip()
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            if strict.method == "POST":
                # Before the first SQL, so that no connection waits for a slow client.
                await strict.body()
            return await handle(strict)

        return strictly


class TransactionalRoute(DocumentedRoute):
    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            required = KEY_REQUIRED in (options.get("dependencies") or ())
            options["openapi_extra"] = idempotency.documented(required=required)
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def in_transaction(request: Request) -> Response:
            async with request.app.state.sessions() as session:
                request.state.session = session
                try:
                    return await answer_once(request, session, handle)
                except NoConnection as error:
                    raise TryAgain from error
                except DBAPIError as error:
                    if sqlstate(error) in BUSY:
                        raise TryAgain from error
                    raise

        return in_transaction


async def answer_once(
    request: Request,
    session: AsyncSession,
    handle: Callable[[Request], Coroutine[Any, Any, Response]],
) -> Response:
    """The handler's answer, or the stored one if this key was answered before."""
    try:
        response = await handle(request)
    except idempotency.Replay as replay:
        return replay.answer()
    except Problem as problem:
        return await answer_refusal(request, session, problem)
    await idempotency.store(request, session, response)
    await session.commit()
    return response


async def answer_refusal(request: Request, session: AsyncSession, problem: Problem) -> Response:
    """Undo the work; keep the answer when the request had a key and the refusal is definitive."""
    response = problem.answer()
    if await idempotency.undo_work(request, problem.status):
        await idempotency.store(request, session, response)
        await session.commit()
    return response


def session_of(request: Request) -> AsyncSession:
    session = request.state.session
    assert isinstance(session, AsyncSession)
    return session


Session = Annotated[AsyncSession, Depends(session_of)]


def _grace_of(request: Request) -> int:
    settings: Settings = request.app.state.settings
    return settings.heartbeat_grace_seconds


# Seconds that paid time goes on after its last sign of life.
Grace = Annotated[int, Depends(_grace_of)]


def parse_json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        _check_escapes(text, value)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise json.JSONDecodeError(reason, "", 0) from error
    return value


def _check_escapes(text: str, value: Any) -> None:
    """Escapes can smuggle in what UTF-8 itself cannot carry: lone surrogates, and NUL."""
    if "\\u" not in text:
        return
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    if "\\u0000" in text:
        raise ValueError("NUL is not allowed")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return names


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large")
    return number


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
