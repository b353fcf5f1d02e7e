"""Follow any cent along the database's own references: down to the seconds, up to Stripe.

The tree is what the rows say. A reference that must lead somewhere and does not, and arithmetic that
does not come out, make it incomplete. `links` says where each row leads, `arithmetic` what must come
out, `text` what is shown, `access` to whom.
"""

from marketplace.reports.explain.nodes import Node
from marketplace.reports.explain.text import lines
from marketplace.reports.explain.tree import TooMuchToExplain, explain

__all__ = ["Node", "TooMuchToExplain", "explain", "lines"]
