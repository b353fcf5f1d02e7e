"""Refusals in the shape of Stripe's error object (https://docs.stripe.com/api/errors)."""

from typing import Any


class StripeError(Exception):
    """One error answer: the HTTP status and what Stripe puts into `error`."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        error = {"message": str(self), "type": self.kind, "code": self.code, "param": self.param}
        return {"error": {name: value for name, value in error.items() if value is not None}}


def resource_missing(what: str, id_: str, *, param: str, status: int = 404) -> StripeError:
    """404 for an id in the path; a parameter that names nothing is a 400."""
    message = f"No such {what}: '{id_}'"
    return StripeError(message, status=status, code="resource_missing", param=param)


def balance_insufficient() -> StripeError:
    return StripeError(
        "You have insufficient available funds in your Stripe account.", code="balance_insufficient"
    )


def transfers_capability_missing() -> StripeError:
    return StripeError(
        "Your destination account needs to have at least one of the following capabilities "
        "enabled: transfers, crypto_transfers, legacy_payments",
        code="insufficient_capabilities_for_transfer",
    )


def operation_lacking(method: str, path: str) -> StripeError:
    return StripeError(
        f"Unrecognized request URL ({method}: {path}). The Stripe sandbox lacks this operation.",
        status=404,
    )
