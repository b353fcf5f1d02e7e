"""Clients' data requests: jobs, their tasks and roles, and the board performers see."""
