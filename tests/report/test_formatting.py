import math

import pytest

from beam_quad.report import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.18349, "0.183"), (-1.2, "−1.20"), (2540.2, "2,540"), (1.84e-5, "1.84×10⁻⁵"), (0.0, "0.00"),
     (999.9999, "1,000"), (math.nan, "–"), (None, "–"), (123456.0, "1.23×10⁵")],
)  # fmt: skip
def test_decimals_have_three_digits(value, text):
    assert formatting.decimal(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.9999, "> 99.9 %"), (1e-7, "< 0.01 %"), (0.1234, "12.3 %"), (1.04, "104.0 %"), (None, "–")],
)  # fmt: skip
def test_percentages_do_not_round_to_all_or_nothing(share, text):
    assert formatting.percent(share) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.934, 2, "0.93"), (-0.12, 2, "−0.12"), (0.99993, 4, "0.9999"), (0.99997, 4, "> 0.9999"),
     (1 - 1e-15, 2, "1.00"), (math.nan, 2, "–"), (None, 2, "–")],
)  # fmt: skip
def test_correlations_do_not_round_to_one(value, digits, text):
    assert formatting.correlation(value, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (3599.9, "1 h 00 min"), (200_000, "2 d 8 h")],
)  # fmt: skip
def test_durations_carry_over(seconds, text):
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(950, "950"), (999_900, "1 M"), (1234, "1.23 k"), (-5e9, "−5 B"), (0, "0")]
)
def test_compact_counts_carry_over(value, text):
    assert formatting.compact(value) == text


def test_sizes_use_binary_units():
    assert [formatting.size(n) for n in (0, 512, 1536, 3 * 2**40)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "3 TiB",
    ]
