"""The only door to Stripe: the gateway that calls it, and the inbox of what it tells us."""
