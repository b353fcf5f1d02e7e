"""Schemathesis asks every operation as every kind of caller, with honest and with spoilt input.

No 5xx, no undocumented status, no answer that its own schema would refuse. Bounded and seeded, so
that it stays a matter of seconds and a failure can be replayed.
"""

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from marketplace.openapi import describe
from tests.conftest import Scene
from tests.world import APP, Caller, World

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = {GenerationMode.POSITIVE: 2, GenerationMode.NEGATIVE: 2}
CALLERS = ("nobody", "client", "member", "performer", "reviewer", "finance", "operator")

SCHEMA = schemathesis.openapi.from_dict(describe(APP))
OPERATIONS: list[Any] = [
    found.ok()  # type: ignore[union-attr]  # one that cannot be read fails here
    for found in SCHEMA.get_all_operations()
]


def play(world: World) -> dict[str, Caller]:
    """Callers with something to find: a job in work, a claim, a submission, a payout run."""
    acme = world.client("Acme Voice Lab", deposit_minor=100_000)
    ravi, finn, operator = world.reviewer(), world.finance(), world.operator()
    ana = world.performer("Ana", onboarded=True)
    job = world.published_job(acme, tasks=3)
    world.accepted_claim(ana, job, ravi)
    claim = world.claim(ana, job)
    world.work(ana, claim, "perform", 60)
    world.hand_in(ana, claim, world.take(ana, claim))
    finn.post("/v1/payout-runs", {"currency": "USD"})
    return {
        "nobody": world.anybody,
        "client": acme,
        "member": acme.member,
        "performer": ana,
        "reviewer": ravi,
        "finance": finn,
        "operator": operator,
    }


@pytest.fixture(scope="session")
def scene(make_scene: Callable[[Callable[[World], dict[str, Caller]]], Scene]) -> Scene:
    return make_scene(play)


@pytest.fixture
def callers(world: World, scene: Scene) -> dict[str, Caller]:
    found: dict[str, Caller] = scene.cast_in(world)
    return found


@pytest.mark.parametrize("mode", list(EXAMPLES), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("who", CALLERS)
def test_any_caller_gets_documented_answers(
    who: str, mode: GenerationMode, world: World, callers: dict[str, Caller]
) -> None:
    known = _known_ids(world)
    caller = callers[who]
    for operation in OPERATIONS:
        # Who may not ask at all is told the same for whatever is honest; what is spoilt is tried.
        if mode is GenerationMode.NEGATIVE or not _is_denied(operation, caller):
            _ask(operation, caller, known, mode)


def _is_denied(operation: Any, caller: Caller) -> bool:
    names = re.findall(r"{(\w+)}", operation.path)
    case = operation.Case(path_parameters=dict.fromkeys(names, str(uuid.UUID(int=7))))
    answer = case.call(base_url=caller.world.url, headers=_headers(operation, caller))
    case.validate_response(answer, checks=CHECKS)
    return answer.status_code in {401, 403}


def _headers(operation: Any, caller: Caller) -> dict[str, str]:
    headers = {"Idempotency-Key": str(uuid.uuid4())} if operation.method == "post" else {}
    return headers | ({"Authorization": f"Bearer {caller.token}"} if caller.token else {})


def _ask(operation: Any, caller: Caller, known: list[str], mode: GenerationMode) -> None:
    cases = operation.as_strategy(generation_mode=mode)

    @seed(20261123)
    @settings(
        max_examples=EXAMPLES[mode],
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, id_=st.sampled_from(known), real=st.booleans())
    def ask(case: Any, id_: str, real: bool) -> None:
        if real:
            case.path_parameters = {
                name: id_ if name.endswith("_id") else value
                for name, value in (case.path_parameters or {}).items()
            }
        answer = case.call(base_url=caller.world.url, headers=_headers(operation, caller))
        case.validate_response(answer, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        # An operation that takes nothing has nothing to spoil.
        assert mode is GenerationMode.NEGATIVE


def _known_ids(world: World) -> list[str]:
    """One row of each kind, and one that does not exist."""
    tables = "job role claim submission recording payout payout_run deposit rate_lineage review"
    found = [
        str(row["id"])
        for table in tables.split()
        for row in world.sql(f"SELECT id FROM {table} ORDER BY id LIMIT 1")
    ]
    assert len(found) == len(tables.split())
    return [*found, str(uuid.UUID(int=7))]
