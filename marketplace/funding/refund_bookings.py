"""What the ledger has of a refund."""

from marketplace.funding.refund_models import Refund
from marketplace.funding.reserves import wallet
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.stripe_api.gateway_answers import BalanceTransaction

AT_STRIPE: ledger.Account = (AccountKind.STRIPE_AVAILABLE, None)
IN_FLIGHT: ledger.Account = (AccountKind.REFUNDS_IN_FLIGHT, None)
FEES: ledger.Account = (AccountKind.STRIPE_FEES, None)


def sent(refund: Refund) -> ledger.Posting:
    return ledger.Posting(
        kind=TransactionKind.REFUND_SENT,
        source_id=refund.id,
        currency=refund.currency,
        moves=((wallet(refund.client_id), IN_FLIGHT, refund.amount_minor),),
        id=refund.sent_transaction_id,
    )


def confirmed(refund: Refund, line: BalanceTransaction) -> ledger.Posting:
    minor = line.fee_minor
    fee = (FEES, AT_STRIPE, minor) if minor >= 0 else (AT_STRIPE, FEES, -minor)
    return ledger.Posting(
        kind=TransactionKind.REFUND_CONFIRMED,
        source_id=refund.id,
        currency=refund.currency,
        moves=((IN_FLIGHT, AT_STRIPE, refund.amount_minor), fee),
        occurred_at=line.created_at,
    )


def refused(refund: Refund) -> ledger.Posting:
    return ledger.Posting(
        kind=TransactionKind.REFUND_REFUSED,
        source_id=refund.id,
        currency=refund.currency,
        moves=((IN_FLIGHT, wallet(refund.client_id), refund.amount_minor),),
    )


def returned(refund: Refund, line: BalanceTransaction) -> ledger.Posting:
    return ledger.Posting(
        kind=TransactionKind.REFUND_RETURNED,
        source_id=refund.id,
        currency=refund.currency,
        moves=((AT_STRIPE, wallet(refund.client_id), refund.amount_minor),),
        occurred_at=line.created_at,
    )
