from tests.payouts.conftest import approved, owed, paid

__all__ = ["approved", "owed", "paid"]
