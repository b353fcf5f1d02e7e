from tests.payouts.conftest import (
    acme,
    after_work,
    approved,
    finn,
    owed,
    paid,
    ravi,
    scene,
    worked,
)

__all__ = ["acme", "after_work", "approved", "finn", "owed", "paid", "ravi", "scene", "worked"]
