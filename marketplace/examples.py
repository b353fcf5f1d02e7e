"""What the description shows for a field whose schema alone cannot say it.

One story in one set of numbers, so that what stands together adds up: 3,700 s at 74.00 an hour are
76.06.
"""

from typing import Any

Json = dict[str, Any]

ID = "01a2086e-1062-71bf-bf59-ec8fafc2dc31"
TIME = "2026-11-23T12:00:00Z"
FORMATS = {
    "uuid": ID,
    "date-time": TIME,
    "password": "a long sentence of your own",
}
# The beginning of a take's bytes, which JSON cannot hold.
TAKE = "fLaC…"

TRANSFER = "tr_3QxAw2LkdIwHu7ix0jVqB5tD"
DESTINATION = "acct_1QxAvn4ItVqnUEr8"
PROFILE = {
    "languages": ["en-US"],
    "accents": ["midwest"],
    "skills": ["improv"],
    "time_zone": "America/Chicago",
    "work_country": "US",
    "claims_limit": 3,
    "live_claims": 1,
}
MONEY = {
    "currency": "USD",
    "rate_minor_per_hour": 7_400,
    "asked_rate_minor_per_hour": 7_400,
    "previous_rate_minor_per_hour": 7_000,
    "change_percent": "5.71",
    "fee_basis_points": 1_500,
    "seconds": 3_700,
    "pay_minor": 7_606,
    "gross_minor": 7_606,
    "adjustments_minor": 0,
    "net_minor": 7_606,
    "paid_minor": 7_606,
    "amount_minor": 7_606,
    "transfer_id": TRANSFER,
    "destination": DESTINATION,
}
TIME_SPENT = {
    "total_seconds": 3_700,
    "preparing_seconds": 600,
    "preparing_cap_seconds": 600,
    "performing_seconds": 2_400,
    "performing_cap_seconds": 2_400,
    "retaking_seconds": 700,
    "retaking_cap_seconds": 2_400,
}
JOB = {
    "title": "Grief and relief, en-US",
    "brief": "Honest, small, improvised. No melodrama.",
    "job_title": "Grief and relief, en-US",
    "job_brief": "Honest, small, improvised. No melodrama.",
    "role_name": "The one who lost the letter",
    "role_brief": "You find the letter you thought was gone for good.",
    "target_sentences": ["I looked everywhere."],
    "elicitation": "improv_solo",
    "role_profile": "roles=1 skills=improv",
    "separation_reason": None,
    "prep_seconds_cap": 600,
    "perform_seconds_cap": 2_400,
    "retakes_max": 1,
    "retakes_granted": 0,
    "claim_window_seconds": 86_400,
    "review_seconds": 259_200,
    "task_number": 1,
    "number": 1,
    "version": 1,
    "fit": 7,
    "fit_reasons": [
        {"factor": "language", "matched": ["en-US"], "points": 4},
        {"factor": "accent", "matched": ["midwest"], "points": 3},
    ],
}
CONSENT = {
    "licence_version": "acme-emotion-1",
    "licence_sha256": "9f86d081" * 8,
    "allowed_uses": ["train_emotion_recognition", "evaluation"],
    "forbidden_uses": ["voice_clone", "biometric_id"],
    "territory": "worldwide",
    "consideration": "7400 USD minor units per hour of work",
}
REPORT: Json = {
    "gates_version": "2026-11-1",
    "tier": "studio",
    "longest_seconds": 2_400,
    "verdict": "pass",
    "results": [
        {
            "metric": "sample_rate_hz",
            "value": 48_000,
            "unit": "Hz",
            "verdict": "pass",
            "pass_limit": "at least 48000",
            "look_limit": "at least 44100",
        }
    ],
    "measurement": {
        "container": "FLAC",
        "sample_rate_hz": 48_000,
        "channels": 1,
        "duration_seconds": 9.1778125,
        "effective_bits": 20,
        "sample_peak_dbfs": -2.99,
    },
}
RECORDING = {"size_bytes": 1_440_044, "sha256": "9f86d081" * 8, "report": REPORT}
STRIPES = {
    "checkout_url": "https://checkout.stripe.com/c/pay/cs_test_a1B2c3",
    "onboarding_url": "https://connect.stripe.com/setup/e/acct_1QxAvn4ItVqnUEr8/Xy7",
    "requirement": "individual.verification.document",
    "idempotency_key": f"payout-{ID}-attempt-1",
    "request": {
        "amount_minor": 7_606,
        "currency": "USD",
        "destination": DESTINATION,
        "transfer_group": f"payout-{ID}",
        "metadata": {"payout_id": ID, "attempt": "1"},
    },
    "stripe_payout_id": "po_1QxB0aLkdIwHu7ixm3TzVvRc",
    "stripe_account_id": DESTINATION,
    "failure_code": None,
    "error_code": None,
    "error_message": None,
    "stripe_request_id": "req_9gXvQ2mJkT4bLz",
    "stripe-signature": "t=1795435200,v1=" + "5257a869" * 8,
}
NAMED: Json = {
    **PROFILE,
    **MONEY,
    **TIME_SPENT,
    **JOB,
    **CONSENT,
    **RECORDING,
    **STRIPES,
    "state_reason": None,
    "status_reason": None,
    "remedy": "Finish your account at Stripe: POST /v1/payout-account leads there.",
    "token": "mkt_dl_w2Jq0bTn5YxkVhR3fGz8",
    "cursor": "WyIwMWEyMDg2ZS0xMDYyLTcxYmYtYmY1OS1lYzhmYWZjMmRjMzEiXQ",
}
# Kept as they were asked for: an answer's free object is the example of what asks.
ASKED = {
    "specification": "Specification",
    "licence": "Licence",
    "labels": "Labels",
    "audio": "Audio",
    "scenario": "Scenario",
    "target": "Target",
    "self_labels": "SelfLabels",
}
