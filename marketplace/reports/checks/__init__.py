"""The statements behind `verify`. Each row that one answers (its `violation`) is a violation."""
