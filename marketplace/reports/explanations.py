"""`marketplace explain` over HTTP: for finance all of it, for performers their own part."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import Field

from marketplace.accounts.models import Role
from marketplace.accounts.principals import Principal, person_with
from marketplace.reports import explain
from marketplace.reports.explain import Node
from marketplace.reports.explain.access import own_part
from marketplace.reports.explain.nodes import Direction
from marketplace.reports.explain.text import amount_minor, facts
from marketplace.shared.problems import NotFound, documented
from marketplace.shared.requests import Session, TransactionalRoute
from marketplace.shared.schemas import Answer

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["reports"])

Asker = Annotated[Principal, Depends(person_with(Role.FINANCE, Role.PERFORMER))]
TEXT = "text/plain"
PRINTED = """\
payout_attempt 01a2086e-1062-71bf-bf59-ec8fafc2dc31 number=1 outcome=succeeded
  payout 01a2086e-1062-71bf-bf59-ec8fafc2dc30 76.06 USD state=paid
"""


class ExplanationFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class ExplanationLine(Answer):
    """A row on the way of a cent. Lines stand in the order of a tree, each below its parent."""

    position: int = Field(examples=[2])
    parent: int | None = Field(
        description="The position of the row that leads here; null where you asked.", examples=[1]
    )
    direction: Direction | None = Field(
        description="`down` towards the seconds and the rate, `up` towards Stripe.",
        examples=["up"],
    )
    table: str = Field(examples=["payout_attempt"])
    id: str = Field(examples=["01a2086e-1062-71bf-bf59-ec8fafc2dc31"])
    amount_minor: int | None
    currency: str | None
    facts: dict[str, str] = Field(
        examples=[{"outcome": "succeeded", "transfer_id": "tr_3QxAw2LkdIwHu7ix0jVqB5tD"}]
    )
    problems: list[str] = Field(
        description="What must be there and is not, and what does not come out.", examples=[[]]
    )


class Explanation(Answer):
    complete: bool = Field(description="Every line leads on, and comes out.", examples=[True])
    lines: list[ExplanationLine]


@router.get(
    "/explanations/{id}",
    response_class=Response,
    responses={
        200: {
            "description": "The tree as JSON, or as the text that `marketplace explain` prints.",
            "model": Explanation,
            "content": {TEXT: {"schema": {"type": "string"}, "example": PRINTED}},
        },
        **documented(NotFound, explain.TooMuchToExplain),
    },
)
async def read_explanation(
    id: Annotated[  # noqa: A002 - its name in the path
        str,
        Path(
            max_length=255,
            pattern=r"^[0-9A-Za-z_-]+$",
            description="Of any row that carries money, or Stripe's own id.",
            examples=["tr_3QxAw2LkdIwHu7ix0jVqB5tD"],
        ),
    ],
    session: Session,
    asker: Asker,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    format_: Annotated[
        ExplanationFormat | None,
        Query(alias="format", description="Null is what `Accept` asks for."),
    ] = None,
) -> Response:
    """Follow a cent both ways: to the second and the rate behind it, and to Stripe's line."""
    try:
        tree = await explain.explain(session, id)
    except explain.TooMuchToExplain as error:
        if Role.FINANCE in asker.roles:
            raise
        raise NotFound from error
    if tree is not None and Role.FINANCE not in asker.roles:
        tree = own_part(tree, asker.person)
    if tree is None:
        raise NotFound
    if (format_ is None and TEXT in accept) or format_ is ExplanationFormat.TEXT:
        return Response("\n".join(explain.lines(tree)) + "\n", media_type=TEXT)
    answer = Explanation(complete=tree.complete, lines=list(_lines(tree)))
    return Response(answer.model_dump_json(), media_type="application/json")


def _lines(tree: Node) -> Iterator[ExplanationLine]:
    waiting: list[tuple[Node, int | None]] = [(tree, None)]
    position = 0
    while waiting:
        node, parent = waiting.pop()
        yield ExplanationLine(
            position=position,
            parent=parent,
            direction=node.direction,
            table=node.table,
            id=str(node.row["id"]),
            amount_minor=amount_minor(node),
            currency=node.row.get("currency"),
            facts=facts(node),
            problems=node.problems,
        )
        waiting += [(child, position) for child in reversed(node.children)]
        position += 1
