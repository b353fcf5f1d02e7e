"""Months of the books: closed by two people once they agree with Stripe, and never written again."""
