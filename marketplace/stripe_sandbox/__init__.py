"""A stateful server that speaks Stripe's wire format, for demonstrations and tests.

Nothing here moves real money, and nothing here was ever compared with Stripe's own servers:
it follows Stripe's published documentation, for the operations this product uses. It imports
nothing from the rest of the product.
"""
