import threading

import pytest

from beam_quad.stages.read.prefetch import prefetched


def test_items_come_in_order_and_ahead_of_the_consumer():
    third = threading.Event()

    def items():
        for item in range(4):
            if item == 2:
                third.set()
            yield item

    found = []
    for item in prefetched(items()):
        # While the first is in use the third is being made.
        assert third.wait(10)
        found.append(item)
    assert found == [0, 1, 2, 3]


def test_an_error_comes_where_its_item_would_have_come():
    def items():
        yield 1
        raise ValueError("planted")

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="planted"):
        next(found)


def test_a_consumer_that_stops_early_stops_the_thread():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    found = prefetched(endless())
    next(found)
    found.close()
    assert threading.active_count() == before
