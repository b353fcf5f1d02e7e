"""Stories of reconciliation begin after a payout, as those of the reports do."""

from tests.reports.conftest import acme, after_a_payout, fay, finn, paid, ravi, scene

__all__ = ["acme", "after_a_payout", "fay", "finn", "paid", "ravi", "scene"]
