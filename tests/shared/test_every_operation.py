"""Every operation of the API, by its own description: nobody new slips in unguarded."""

import re
import uuid
from typing import Any

import pytest

from marketplace.cli import api_description
from tests.world import ACCEPT, PROFILE, SELF_LABELS, Caller, Client, World, new_job

REASON = {"reason": "a reason that is long enough"}
NOBODY = str(uuid.UUID(int=7))
RECORDING = {"size_bytes": 1, "sha256": "ab" * 32}

# Who an operation is for. A new operation must be entered here.
FOR: dict[str, set[str]] = {
    "performer": {
        "read_own_audition hand_in_audition keep_audition_alive declare_audition_recording",
        "start_audition read_board list_claims make_claim read_claim keep_time_alive",
        "read_pay_decision list_claim_recordings declare_recording release_claim",
        "list_submissions submit_claim read_time start_time stop_time list_consents",
        "withdraw_consent read_payout_account list_own_bank_payouts open_payout_account read_own_profile",
        "apply_as_performer edit_own_profile read_earnings list_earnings",
    },
    "reviewer": {
        "list_waiting_auditions decide_audition propose_withholding take_next_review read_review",
        "listen_to_audition listen_to_recording give_verdict",
    },
    "reviewer operator": {
        "pay_claim decide_withholding list_withholdings list_undecided_claims",
    },
    "operator": {
        "set_audition_rate create_client create_invite separate_lineage set_minimum_rate",
        "list_performers offer_audition decline_performer reinstate_performer suspend_performer",
        "limit_claims",
        "list_people take_role_back sign_person_out",
    },
    "finance": {
        "list_payout_runs draft_payout_run read_payout_run approve_payout_run discard_payout_run",
        "ask_for_reversal list_reversals read_reversal approve_reversal reject_reversal",
        "pause_payout_run resume_payout_run hold_payout reissue_payout retire_payout_account read_duties",
        "explain_reversal decide_reversal_absent propose_pay_correction propose_adjustment",
        "propose_netting propose_write_off list_corrections read_correction approve_correction",
        "reject_correction",
        "list_exclusions list_payouts read_payout approve_payout_again decide_payout_absent release_payout",
        "list_exceptions propose_line_booking list_line_bookings read_line_booking",
        "approve_line_booking discard_line_booking",
        "list_withdrawals request_withdrawal read_withdrawal approve_withdrawal discard_withdrawal",
        "decide_withdrawal_absent list_bank_payouts",
        "decide_refund_absent",
        "create_topup read_topup read_performer_report read_payout_report read_rate_report read_trial_balance read_reconciliation",
        "propose_client_charge decide_client_charge",
        "list_client_debts propose_debt_decision list_debt_decisions decide_client_debt",
        "read_liabilities read_roll_forward read_fees list_periods read_period start_closing_period",
        "confirm_closed_period reopen_period read_journal",
    },
    "client finance": {
        "create_refund read_refund list_refunds list_disputes read_dispute",
        "list_client_charges read_client_charge",
    },
    "client": {
        "list_events list_jobs create_job read_job edit_job cancel_job close_job pause_job",
        "publish_job quote_job list_accepted_recordings read_progress resume_job list_roles announce_rate",
        "create_download_link read_wallet list_deposits create_deposit read_deposit",
    },
    "member": {
        "list_api_keys create_api_key revoke_api_key create_member_invite",
        "list_members remove_member",
    },
    "performer finance": {"read_explanation"},
    "performer reviewer operator finance member": {
        "list_devices sign_out_device accept_invite read_recording upload_recording",
    },
    "performer reviewer operator finance member client": {
        "read_me read_minimum_rate read_rate_lineage read_rate_at list_rates",
    },
}
# What any key may do; the key below has the scope for events.
WITHOUT_SCOPE = {"read_me", "read_minimum_rate", "list_events"}
PUBLIC = {
    *("read_health", "read_readiness", "download_recording", "join", "reset_password", "sign_in"),
    "receive_stripe_event",
}
BODIES: dict[str, Any] = {
    "NewApiKey": {"name": "pipeline", "scopes": ["jobs:read"]},
    "NewAuditionRate": {"currency": "USD", "rate_minor_per_hour": 3_000, **REASON},
    "HandedInAudition": {"recording_id": NOBODY},
    "NewRecording": RECORDING,
    "AuditionDecision": {"outcome": "passed", **REASON},
    "NewClaim": {"role_id": NOBODY},
    "NewClaimsLimit": {"claims_limit": 5, **REASON},
    "Release": {},
    "NewSubmission": {"recording_ids": [NOBODY], "self_labels": SELF_LABELS},
    "StartTime": {"activity": "prep"},
    "NewWithholding": {"ground": "no_work", **REASON},
    "WithholdingDecision": {"confirm": True, **REASON},
    "NewClient": {"name": "Another Lab", "currency": "USD"},
    "Withdrawal": {},
    "NewInvite": {"role": "performer"},
    "AcceptInvite": {"code": "mkt_inv_x"},
    "NewJob": new_job(),
    "jobs__schemas__StateReason": {},
    "Publication": {},
    "Separation": REASON,
    "NewMinimumRate": {"currency": "USD", "rate_minor_per_hour": 1_500, **REASON},
    "NewPayoutAccount": {"return_url": "https://app.example/paid"},
    "NewPayoutRun": {"currency": "USD"},
    "Decision": REASON,
    "CorrectionDecision": REASON,
    "NewPayCorrection": {"seconds": 60, **REASON},
    "NewCorrection": {"amount_minor": 123, "currency": "USD", **REASON},
    "NewReversal": {"amount_minor": 123, "cause": "fraud", **REASON},
    "ReversalExplanation": {"cause": "fraud", **REASON},
    "Reopening": REASON,
    "Profile": PROFILE,
    "NewAudition": {"brief": "Two minutes.", "currency": "USD", "seconds_cap": 600},
    "performers__schemas__StateReason": REASON,
    "NewRate": {"rate_minor_per_hour": 8_000, **REASON},
    "NewVerdict": ACCEPT,
    "NewLineBooking": {"booked_as": "capital", **REASON},
    "LineBookingDecision": REASON,
    "WithdrawalDecision": REASON,
    "NewWithdrawal": {"amount_minor": 100, "currency": "USD", **REASON},
    "NewTopup": {"amount_minor": 100, "currency": "USD"},
    "NewRefund": {"amount_minor": 100, "currency": "USD"},
    "AbsentRefund": REASON,
    "NewClientCharge": {"deposit_id": NOBODY, "amount_minor": 100, "currency": "USD", **REASON},
    "NewDebtDecision": {"remedy": "settle", "amount_minor": 100, "currency": "USD", **REASON},
    "SecondWord": {"confirm": True, **REASON},
    "NewDeposit": {"amount_minor": 100, "success_url": "https://acme.example/wallet"},
}


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    import json

    paths = json.loads(api_description())["paths"]
    return [
        (method.upper(), path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


OPERATIONS = _operations()
GUARDED = [each for each in OPERATIONS if "security" in each[2]]
ADMITTED = {
    operation: set(callers.split())
    for callers, lines in FOR.items()
    for line in lines
    for operation in line.split()
}


@pytest.fixture
def cast(world: World) -> dict[str, Caller]:
    acme: Client = world.client()
    return {
        "performer": world.performer(),
        "reviewer": world.reviewer(),
        "operator": world.operator(),
        "finance": world.finance(),
        "member": acme.member,
        "client": acme,
    }


def request(caller: Caller, method: str, path: str, operation: dict[str, Any]) -> tuple[int, str]:
    """Well-formed, about something that does not exist."""
    filled = path.replace("{currency}", "PLN").replace("{endpoint}", "platform")
    filled = filled.replace("{month}", "2020-01")
    filled = filled.replace("{role}", "reviewer")
    filled = re.sub(r"\{\w+\}", NOBODY, filled)
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    body = BODIES[reference.rpartition("/")[2].removeprefix("marketplace__")] if reference else None
    asks = {each["name"] for each in operation.get("parameters", []) if each["in"] == "query"}
    query = REASON if "reason" in asks else None
    answer = caller.ask(method, filled, body, headers={"If-Match": '"1"'}, query=query)
    code = answer.json().get("code", "") if answer.content and answer.status_code >= 400 else ""
    return answer.status_code, code


def test_each_operation_is_known_here() -> None:
    assert {operation["operationId"] for _, _, operation in GUARDED} == set(ADMITTED)
    public = {each[2]["operationId"] for each in OPERATIONS if "security" not in each[2]}
    assert public == PUBLIC


def test_a_key_is_offered_on_every_post_of_somebody_signed_in() -> None:
    for method, path, operation in OPERATIONS:
        offered = any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", []))
        assert offered == (method == "POST" and "security" in operation), path


def test_anonymous_gets_401_everywhere(world: World) -> None:
    for method, path, operation in GUARDED:
        assert request(world.anybody, method, path, operation) == (401, "unauthorized"), path


def test_a_made_up_token_gets_401_everywhere(world: World) -> None:
    stranger = Caller(world, "mkt_dev_made-up")
    for method, path, operation in GUARDED:
        assert request(stranger, method, path, operation) == (401, "unauthorized"), path


def test_the_wrong_role_gets_403_everywhere(cast: dict[str, Caller]) -> None:
    for method, path, operation in GUARDED:
        admitted = ADMITTED[operation["operationId"]]
        # A member may do all that the client's API key may.
        admitted = admitted | ({"member"} if "client" in admitted else set())
        for name in cast.keys() - admitted:
            status, code = request(cast[name], method, path, operation)
            assert (status, code) == (403, "forbidden"), f"{method} {path} as {name}"


def test_an_unknown_id_gets_404_everywhere(cast: dict[str, Caller]) -> None:
    for method, path, operation in GUARDED:
        if "{" not in path:
            continue
        for name in ADMITTED[operation["operationId"]]:
            status, _ = request(cast[name], method, path, operation)
            assert status == 404, f"{method} {path} as {name}"


def test_a_key_without_the_scope_gets_403(world: World) -> None:
    acme = world.client()
    wanted = {"name": "events only", "scopes": ["events:read"]}
    narrow = Caller(world, acme.member.post("/v1/api-keys", wanted)["token"])
    for method, path, operation in GUARDED:
        admitted = "client" in ADMITTED[operation["operationId"]]
        if admitted and operation["operationId"] not in WITHOUT_SCOPE:
            assert request(narrow, method, path, operation) == (403, "scope_missing"), path
    assert narrow.get("/v1/events")["items"] == []
