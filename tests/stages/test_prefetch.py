import threading

import pytest

from beam_quad.stages.read.prefetch import made_ahead, prefetched


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


def test_two_are_made_at_once_while_a_third_is_in_use_and_come_in_order():
    others, made = threading.Barrier(2), []

    def make(item):
        if item in (1, 2):
            others.wait(10)  # broken, unless the two are made at the same time
        made.append(item)
        return 10 * item

    found = made_ahead(iter(range(9)), make)
    assert next(found) == 0
    assert next(found) == 10
    # 1 is in use, 2 and 3 are or will be made, and so may 4 be, which waits for its place.
    assert max(made) <= 4
    assert list(found) == [10 * item for item in range(2, 9)]


def test_an_error_of_what_makes_comes_where_its_item_would_have_come():
    def make(item):
        if item == 1:
            raise ValueError("planted")
        return item

    before = threading.active_count()
    found = made_ahead(iter(range(9)), make)
    assert next(found) == 0
    with pytest.raises(ValueError, match="planted"):
        next(found)
    assert threading.active_count() == before
