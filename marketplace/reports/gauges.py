"""What the database says of the work in hand, for `/metrics`: what waits, what is late, what is owed."""

from prometheus_client.core import GaugeMetricFamily
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.reports.checks import ledger, queues
from marketplace.shared.database import rows

PAYOUTS = """
    SELECT state, currency, count(*) AS payouts, sum(amount_minor)::bigint AS minor
    FROM payout GROUP BY state, currency
"""
# The seal is made every minute; what it has not reached yet, nothing protects.
UNSEALED = """
    SELECT coalesce(extract(epoch FROM marketplace_now() - min(booked_at)), 0)::float AS seconds
    FROM audit_event
    WHERE booked_at > coalesce(
        (SELECT sealed_to FROM seal ORDER BY number DESC LIMIT 1), '-infinity')
"""


async def look(session: AsyncSession) -> list[GaugeMetricFamily]:
    waiting = _family("marketplace_waiting_rows", "Rows that are due now or later", "queue")
    late = _family("marketplace_late_rows", "Rows more than five minutes past their time", "queue")
    for row in await rows(session, queues.WAITING):
        waiting.add_metric([row["queue"]], row["waiting"])
        late.add_metric([row["queue"]], row["late"])
    payouts = _family("marketplace_payouts", "Payouts by state", "state", "currency")
    minor = _family("marketplace_payouts_minor", "Their sum, minor units", "state", "currency")
    for row in await rows(session, PAYOUTS):
        payouts.add_metric([row["state"], row["currency"]], row["payouts"])
        minor.add_metric([row["state"], row["currency"]], row["minor"])
    owed = _family("marketplace_owed_minor", "Wallets, reserves, payables, in flight", "currency")
    for row in await rows(session, ledger.OWED):
        owed.add_metric([row["currency"]], row["minor"])
    cash = _family("marketplace_cash_minor", "Stripe's balance by the ledger", "currency")
    for row in await rows(session, ledger.STRIPE_ACCOUNTS):
        cash.add_metric([row["currency"]], row["minor"])
    unsealed = _family(
        "marketplace_unsealed_seconds", "Age of the oldest unsealed row of the audit"
    )
    for row in await rows(session, UNSEALED):
        unsealed.add_metric([], row["seconds"])
    return [waiting, late, payouts, minor, owed, cash, unsealed]


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
