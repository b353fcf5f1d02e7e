"""Handed-in work and the verdicts on it."""
