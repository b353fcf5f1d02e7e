"""The pages a performer or a client would see at Stripe: to look at, or to complete by one call.

`GET` shows what would happen, `POST` with `outcome` does it and leads back to the product.
"""

import html
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.accounts import finish_onboarding
from marketplace.stripe_sandbox.api import Sandbox
from marketplace.stripe_sandbox.calls import Call
from marketplace.stripe_sandbox.checkout import PAY_BY
from marketplace.stripe_sandbox.later import happen

router = APIRouter(prefix="/hosted")

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Stripe sandbox</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem}}
button{{font:inherit;padding:.5rem 1rem;margin:.25rem .5rem .25rem 0}}</style></head>
<body><p><strong>Stripe sandbox: nothing real.</strong> No money moves and nobody is checked.</p>
<h1>{title}</h1><p>{text}</p>{form}</body></html>"""


@router.get("/onboarding/{link_id}")
async def show_onboarding(request: Request, link_id: str) -> Response:
    call = _call(request)
    link = state.find(call.db, "account_link", link_id)
    if link is None:
        return _page("No such page", "This onboarding link does not exist.", status=404)
    if _worn_out(call, link):
        return RedirectResponse(link["refresh_url"], status_code=303)
    return _page(
        "Set up your payouts",
        f"Account {link['account']}. Stripe would ask for name, identity and bank account here.",
        buttons={"complete": "Complete onboarding", "restricted": "Complete, but be restricted"},
    )


@router.post("/onboarding/{link_id}")
async def complete_onboarding(
    request: Request,
    link_id: str,
    outcome: Annotated[Literal["complete", "restricted"], Form()] = "complete",
) -> Response:
    call = _call(request)
    link = state.find(call.db, "account_link", link_id)
    if link is None:
        return _page("No such page", "This onboarding link does not exist.", status=404)
    if _worn_out(call, link):
        return RedirectResponse(link["refresh_url"], status_code=303)
    with state.transaction(call.db):
        finish_onboarding(call, link, restricted=outcome == "restricted")
    _sandbox(request).events_written.set()
    return RedirectResponse(link["return_url"], status_code=303)


@router.get("/checkout/{session_id}")
async def show_checkout(request: Request, session_id: str) -> Response:
    call = _call(request)
    session = state.find(call.db, "checkout.session", session_id)
    if session is None:
        return _page("No such page", "This payment page does not exist.", status=404)
    if session["status"] != "open":
        return _page("All done here", f"This payment page is {session['status']}.", status=410)
    return _page(
        "Pay",
        f"{session['amount_total']} {session['currency'].upper()} in minor units.",
        buttons={
            "card": "Pay by card",
            "card_declined": "Pay with a card that is declined",
            "bank_debit": "Pay by bank debit, which takes days",
            "bank_debit_bounced": "Pay by bank debit that bounces after days",
        },
    )


@router.post("/checkout/{session_id}")
async def complete_checkout(
    request: Request,
    session_id: str,
    outcome: Annotated[
        Literal["card", "card_declined", "bank_debit", "bank_debit_bounced"], Form()
    ] = "card",
) -> Response:
    call = _call(request)
    session = state.find(call.db, "checkout.session", session_id)
    if session is None:
        return _page("No such page", "This payment page does not exist.", status=404)
    if session["status"] == "complete":
        return RedirectResponse(_success_url(session), status_code=303)
    if session["status"] != "open":
        return _page("Too late", "This payment page has expired.", status=410)
    with state.transaction(call.db):
        session = PAY_BY[outcome](call, session)
    _sandbox(request).events_written.set()
    if session["status"] != "complete":
        return _page("Declined", "Your card was declined. Try another one.", status=402)
    return RedirectResponse(_success_url(session), status_code=303)


def _sandbox(request: Request) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def _call(request: Request) -> Call:
    db = _sandbox(request).db
    happen(db)
    return Call(db=db, now=state.virtual_now(db), base_url=str(request.base_url).rstrip("/"))


def _worn_out(call: Call, link: dict[str, Any]) -> bool:
    """Account links work once, and for minutes; then the product must make a new one."""
    return bool(link["used"]) or link["expires_at"] <= call.now


def _success_url(session: dict[str, Any]) -> str:
    url: str = session["success_url"]
    return url.replace("{CHECKOUT_SESSION_ID}", quote(session["id"]))


def _page(
    title: str, text: str, *, buttons: dict[str, str] | None = None, status: int = 200
) -> HTMLResponse:
    form = "".join(
        f'<button name="outcome" value="{html.escape(outcome)}">{html.escape(label)}</button>'
        for outcome, label in (buttons or {}).items()
    )
    return HTMLResponse(
        PAGE.format(
            title=html.escape(title),
            text=html.escape(text),
            form=f'<form method="post">{form}</form>' if form else "",
        ),
        status_code=status,
    )
