"""Clients' money with us: deposits, wallets, and what is set aside for jobs."""
