"""Asking Stripe for something that must happen once, by what its reference says of keys."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

# What may go wrong with one request, whatever it asks for.
FAULTS = ("drop_before", "apply_then_drop", "error_500_after_apply", "429", "409")
# What waits for Stripe is looked at again within the hour.
WAITS_SECONDS = 3_660

# What Stripe itself says of a request.
MADE, REFUSED, NO_FUNDS, SERVER_ERROR = "made", "refused", "no funds", "500"
# By a look-up: as it is by now, while a repeat of the key tells again how it was when it was made.
FOUND = "found"


@dataclass
class Key:
    """One intent under one key: what Stripe keeps under it, and whether it did what was asked."""

    committed_at: datetime
    # After this it is looked up, for Stripe may have forgotten the key.
    serves: timedelta
    saved: str | None = None
    is_made: bool = False
    looked_up_in_vain: bool = False

    @property
    def serves_until(self) -> datetime:
        return self.committed_at + self.serves

    def ask(self, fault: str | None, now: datetime, run: Callable[[], str]) -> str | None:
        """What we learn by asking now; nothing, if no answer proves anything.

        `run` is what Stripe does when it has not seen the key before, and its answer.
        """
        self.looked_up_in_vain = False
        if now >= self.serves_until:
            self.looked_up_in_vain = not self.is_made
            return FOUND if self.is_made else None
        if fault in {"drop_before", "429", "409"}:
            return None
        if self.saved is None:
            answer = run()
            self.is_made = answer == MADE
            self.saved = SERVER_ERROR if fault == "error_500_after_apply" else answer
        if fault == "apply_then_drop" or self.saved == SERVER_ERROR:
            return None
        return self.saved

    def takes_fault(self, now: datetime) -> bool:
        """Only a request meets a fault; a look-up is another one."""
        return now < self.serves_until
