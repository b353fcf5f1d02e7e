import pytest

# What a flow asserts of its end is told in full.
for _name in ("in", "out", "work"):
    pytest.register_assert_rewrite(f"tests.faults.flows_{_name}")
