import pytest

# What a flow asserts of its end is told in full.
pytest.register_assert_rewrite("tests.faults.flows")
