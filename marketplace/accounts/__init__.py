"""Clients and people, what they may do, and the tokens that prove who they are."""
