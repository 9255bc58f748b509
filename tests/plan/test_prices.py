import pytest

from beam_quad.errors import UsageError
from beam_quad.plan.prices import LIST_PRICES, Prices


def test_prices_that_are_left_out_are_the_list_s():
    found = Prices.from_json('{"core_hour": 0.01, "device_hour": {"H100": 3}}')
    assert found.core_hour == 0.01
    assert found.shuffled_gb == LIST_PRICES.shuffled_gb
    assert found.device_hour == {"L4": LIST_PRICES.device_hour["L4"], "H100": 3.0}


def test_cores_are_paid_with_their_memory_and_devices_by_their_chip():
    prices = Prices.from_json('{"core_hour": 1, "memory_gb_hour": 0.5, "device_hour": {"L4": 2}}')
    assert prices.of_cores(3, 4e9) == pytest.approx(3 * (1 + 4 * 0.5))
    assert prices.of_devices(5, "L4") == 10
    assert prices.of_devices(5, "H100") is None
    assert prices.of_devices(0, None) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "JSON object of numbers"), ("{", "JSON object of numbers"), ('{"core_hour": "dear"}', "JSON object of numbers"),
        ('{"cores": 1}', "no price is called 'cores'; there are core_hour"), ('{"core_hour": -1}', "at least 0"),
        ('{"device_hour": {"L4": -1}}', "at least 0"),
    ],
)  # fmt: skip
def test_prices_that_are_none_are_refused_in_a_line(text, words):
    with pytest.raises(UsageError, match=words) as refusal:
        Prices.from_json(text)
    assert "\n" not in str(refusal.value)
