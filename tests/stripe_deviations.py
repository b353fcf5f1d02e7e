"""Where our two judges of Stripe's wire format differ about what we use, and why each may.

The one is Stripe's OpenAPI file of 2026-05-27, the newest that a package carries; the other are the
types of the SDK, which is pinned to 2026-10-28.endive. The sandbox speaks the pinned version.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A parameter that one judge knows and the other does not; `source` says who is right."""

    operation: tuple[str, str]
    parameter: str
    only_in_file: bool
    source: str


# What neither the product sends nor the sandbox takes needs no entry.
PARAMETERS = (
    Deviation(
        operation=("POST", "/v1/checkout/sessions"),
        parameter="payment_method_types",
        only_in_file=True,
        source="stripe 16.1.0, stripe.params.checkout.SessionCreateParams: the pinned version has"
        " `allowed_payment_method_types` instead; so the sandbox refuses the old name.",
    ),
)
