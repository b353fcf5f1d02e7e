"""The seal: the ledger, rates, consents and the audit are chained by hashes, so that not even the
database's owner can rewrite them unseen.
"""
