"""The way to the bank: the platform's own money out, and what becomes of performers' payouts there."""
