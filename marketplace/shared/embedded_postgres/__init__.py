"""A PostgreSQL server of our own, out of a Python wheel: nothing to install, nothing left behind.

`server` starts and stops it, `cluster` makes its data folder, `programs` finds the executables and
the user they run under.
"""

from marketplace.shared.embedded_postgres.programs import EmbeddedPostgresError, bin_folder
from marketplace.shared.embedded_postgres.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "bin_folder"]
