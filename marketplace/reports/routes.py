from fastapi import APIRouter

from marketplace.shared.requests import TransactionalRoute

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["reports"])
