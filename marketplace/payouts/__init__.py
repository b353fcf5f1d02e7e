"""Paying performers: runs that finance approves, payouts, and each try at Stripe."""
