"""Pay and fee against exact fractions; the database's functions give the same as Python's."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace.shared.money import LARGEST_AMOUNT_MINOR, cost_minor, display, fee_minor, pay_minor
from tests.world import World

SECONDS = st.integers(0, 10**7)
RATES = st.integers(0, 10**8)
AMOUNTS = st.integers(0, LARGEST_AMOUNT_MINOR)
BASIS_POINTS = st.integers(0, 10_000)


def half_up(exact: Fraction) -> int:
    return math.floor(exact + Fraction(1, 2))


@settings(max_examples=500, deadline=None)
@given(SECONDS, RATES)
def test_pay_is_the_exact_fraction_rounded_half_up(seconds: int, rate: int) -> None:
    assert pay_minor(seconds, rate) == half_up(Fraction(seconds * rate, 3_600))


@settings(max_examples=500, deadline=None)
@given(AMOUNTS, BASIS_POINTS)
def test_the_fee_is_the_exact_fraction_rounded_half_up(pay: int, fee: int) -> None:
    assert fee_minor(pay, fee) == half_up(Fraction(pay * fee, 10_000))


def test_a_hundred_thousand_claims_are_priced_exactly() -> None:
    draw = random.Random(20_261_123)  # noqa: S311 - a seed, so that a failure repeats
    for _ in range(100_000):
        seconds, rate, fee = draw.randrange(10**6), draw.randrange(10**6), draw.randrange(10_001)
        pay = pay_minor(seconds, rate)
        assert pay == half_up(Fraction(seconds * rate, 3_600)), (seconds, rate)
        assert fee_minor(pay, fee) == half_up(Fraction(pay * fee, 10_000)), (pay, fee)


@settings(max_examples=300, deadline=None)
@given(SECONDS, st.integers(0, 10**6), RATES, BASIS_POINTS)
def test_more_seconds_never_cost_less(seconds: int, more: int, rate: int, fee: int) -> None:
    assert cost_minor(seconds, rate, fee) <= cost_minor(seconds + more, rate, fee)


def test_halves_go_up() -> None:
    assert [pay_minor(seconds, 1_800) for seconds in range(5)] == [0, 1, 1, 2, 2]
    assert pay_minor(3_600, 1_800) == 1_800  # 3,600 entries of one second would pay 3,600
    assert [fee_minor(pay, 5_000) for pay in (0, 1, 2, 3)] == [0, 1, 1, 2]


@pytest.mark.parametrize(("one", "two"), [(-1, 1), (1, -1)])
def test_nothing_negative_is_rounded(one: int, two: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        pay_minor(one, two)
    with pytest.raises(ValueError, match="negative"):
        fee_minor(one, two)


def test_the_worked_example() -> None:
    assert [pay_minor(seconds, 7_400) for seconds in (600, 3_700, 2_500)] == [1_233, 7_606, 5_139]
    assert [fee_minor(pay, 1_500) for pay in (1_233, 7_606, 5_139)] == [185, 1_141, 771]
    assert cost_minor(5_400, 7_400, 1_500) == 12_765


def test_the_database_computes_the_same(world: World) -> None:
    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(st.tuples(SECONDS, RATES, BASIS_POINTS), min_size=100, max_size=200))
    def compare(cases: list[tuple[int, int, int]]) -> None:
        seconds, rates, fees = (list(column) for column in zip(*cases, strict=True))
        found = world.sql(
            "SELECT pay_minor(s, r) AS pay, fee_minor(pay_minor(s, r), f) AS fee,"
            " cost_minor(s, r, f) AS cost"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS given (s, r, f)",
            *(seconds, rates, fees),
        )
        for (s, r, f), row in zip(cases, found, strict=True):
            pay = pay_minor(s, r)
            assert row == {"pay": pay, "fee": fee_minor(pay, f), "cost": cost_minor(s, r, f)}

    compare()


@pytest.mark.parametrize(
    ("amount", "shown"), [(0, "0.00 USD"), (5, "0.05 USD"), (-123_456, "-1,234.56 USD")]
)
def test_money_is_shown_to_people(amount: int, shown: str) -> None:
    assert display(amount, "USD") == shown
