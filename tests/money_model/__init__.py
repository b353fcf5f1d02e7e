"""The whole way of money once more, in plain Python, and rules that drive both at once.

Each file is one part of the business: what may happen (rules, over HTTP and by sweeps), and what
that does to the books by `money.md`, in arithmetic of its own. Nothing here is taken from the
product but its answers' ids and stamps.
"""
