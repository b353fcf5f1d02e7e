"""The database's schema and its guards, as reviewed steps (Alembic)."""
