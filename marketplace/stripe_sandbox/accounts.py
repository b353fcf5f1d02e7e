"""Connected accounts, and the links that lead to their hosted onboarding."""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.calls import EXPAND, RETRIEVE, Call, Operation
from marketplace.stripe_sandbox.currencies import CURRENCY_OF_COUNTRY
from marketplace.stripe_sandbox.errors import StripeError, resource_missing
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import Fields, Flag, Metadata, Text, Url
from marketplace.stripe_sandbox.views import answer

LINK_LIFE_SECONDS = 5 * 60
REQUIREMENTS = ["external_account", "individual.first_name", "tos_acceptance.date"]


def create_account(call: Call) -> dict[str, Any]:
    country = call.parameters.get("country", "US")
    if country not in CURRENCY_OF_COUNTRY:
        raise StripeError(f"Country '{country}' is unknown.", code="country_unsupported")
    requested = call.parameters.get("capabilities", {}).get("transfers", {}).get("requested", False)
    account = {
        "id": state.new_id("acct"),
        "object": "account",
        "business_type": call.parameters.get("business_type"),
        "capabilities": {"transfers": "inactive"} if requested else {},
        "charges_enabled": False,
        "controller": _controller(call.parameters.get("controller", {})),
        "country": country,
        "created": call.now,
        "default_currency": CURRENCY_OF_COUNTRY[country],
        "details_submitted": False,
        "email": call.parameters.get("email"),
        "metadata": call.parameters.get("metadata", {}),
        "payouts_enabled": False,
        "requirements": _requirements(REQUIREMENTS, "requirements.past_due"),
        "type": "none",
    }
    state.insert(call.db, account, account=state.PLATFORM)
    return answer(call, account)


def retrieve_account(call: Call) -> dict[str, Any]:
    account = state.find(call.db, "account", call.path_id)
    if account is None:
        raise account_invalid(call.path_id)
    return answer(call, account)


def account_invalid(id_: str) -> StripeError:
    """Stripe does not tell a foreign account from none (403, `account_invalid`)."""
    return StripeError(
        f"The provided key does not have access to account '{id_}' (or that account does not "
        "exist). Application access may have been revoked.",
        status=403,
        code="account_invalid",
    )


def create_account_link(call: Call) -> dict[str, Any]:
    account = call.parameters["account"]
    if state.find(call.db, "account", account) is None:
        raise resource_missing("account", account, param="account", status=400)
    for name in ("refresh_url", "return_url"):
        if name not in call.parameters:
            raise StripeError(
                f"Missing required param: {name}.", code="parameter_missing", param=name
            )
    link_id = state.new_id("link")
    stored = {
        "id": link_id,
        "object": "account_link",
        "account": account,
        "created": call.now,
        "expires_at": call.now + LINK_LIFE_SECONDS,
        "refresh_url": call.parameters["refresh_url"],
        "return_url": call.parameters["return_url"],
        "used": False,
    }
    state.insert(call.db, stored, account=state.PLATFORM)
    return {
        "object": "account_link",
        "created": stored["created"],
        "expires_at": stored["expires_at"],
        "url": f"{call.base_url}/hosted/onboarding/{link_id}",
    }


def finish_onboarding(call: Call, link: dict[str, Any], *, restricted: bool) -> None:
    """What Stripe decides after the hosted form: paid from now on, or restricted."""
    state.update(call.db, {**link, "used": True})
    set_transfers_capability(call, link["account"], active=not restricted)


def restrict_if_known(call: Call, account_id: str) -> None:
    if state.find(call.db, "account", account_id) is not None:
        set_transfers_capability(call, account_id, active=False)


def set_transfers_capability(call: Call, account_id: str, *, active: bool) -> None:
    """Emits `account.updated` on the connected account; also used to restrict one later."""
    account = state.find(call.db, "account", account_id)
    if account is None:
        raise resource_missing("account", account_id, param="account")
    account["details_submitted"] = True
    account["payouts_enabled"] = active
    if "transfers" in account["capabilities"]:
        account["capabilities"]["transfers"] = "active" if active else "inactive"
    account["requirements"] = (
        _requirements([], None)
        if active
        else _requirements(["individual.verification.document"], "requirements.past_due")
    )
    state.update(call.db, account)
    emit(call, "account.updated", account, account=account_id)


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/accounts",
        takes=Fields(
            {
                "business_type": Text(choices=("company", "individual")),
                "capabilities": Fields({"transfers": Fields({"requested": Flag()})}),
                "controller": Fields(
                    {
                        "fees": Fields({"payer": Text(choices=("account", "application"))}),
                        "losses": Fields({"payments": Text(choices=("application", "stripe"))}),
                        "requirement_collection": Text(choices=("application", "stripe")),
                        "stripe_dashboard": Fields(
                            {"type": Text(choices=("express", "full", "none"))}
                        ),
                    }
                ),
                "country": Text(length_max=2),
                "email": Text(length_max=512),
                "expand": EXPAND,
                "metadata": Metadata(),
            }
        ),
        run=create_account,
    ),
    Operation(method="GET", path="/v1/accounts/{id}", takes=RETRIEVE, run=retrieve_account),
    Operation(
        method="POST",
        path="/v1/account_links",
        takes=Fields(
            {
                "account": Text(),
                "expand": EXPAND,
                "refresh_url": Url(),
                "return_url": Url(),
                "type": Text(choices=("account_onboarding",)),
            },
            required=("account", "type"),
        ),
        run=create_account_link,
    ),
)


def _controller(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "application",
        "is_controller": True,
        "fees": {"payer": asked.get("fees", {}).get("payer", "account")},
        "losses": {"payments": asked.get("losses", {}).get("payments", "stripe")},
        "requirement_collection": asked.get("requirement_collection", "stripe"),
        "stripe_dashboard": {"type": asked.get("stripe_dashboard", {}).get("type", "full")},
    }


def _requirements(due: list[str], disabled_reason: str | None) -> dict[str, Any]:
    return {
        "alternatives": [],
        "current_deadline": None,
        "currently_due": due,
        "disabled_reason": disabled_reason,
        "errors": [],
        "eventually_due": due,
        "past_due": due,
        "pending_verification": [],
    }
