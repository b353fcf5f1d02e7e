"""Hourly rates: append-only history per lineage. Whatever happened to a rate stays readable."""
