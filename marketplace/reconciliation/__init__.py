"""Stripe's own books, kept line by line, and held against ours."""
