import dataclasses

import pytest

from beam_quad.additive import PairwiseSum


@dataclasses.dataclass(frozen=True)
class Copied:
    """Items in order, and how many were copied to put them together."""

    items: tuple[int, ...]
    copies: int = 0

    def __add__(self, other):
        items = self.items + other.items
        return Copied(items, self.copies + other.copies + len(items))


@pytest.mark.parametrize("number", [1, 2, 3, 13, 64, 100])
def test_items_are_summed_in_their_order_however_they_come_together(number):
    items = [Copied((i,)) for i in range(number)]
    for cuts in ((), (1,), (number // 3, number // 2)):
        sums = []
        for start, end in zip((0, *cuts), (*cuts, number), strict=True):
            part = PairwiseSum()
            for item in items[start:end]:
                part.add(item)
            part.add(None)
            sums.append(part.compact() if len(sums) % 2 else part)
        for part in sums[1:]:
            sums[0].merge(part)
        assert sums[0].total().items == tuple(range(number))
        assert sums[0].compact().sums[0][0] == number


def test_a_sum_that_grows_is_copied_as_often_as_its_number_can_be_halved():
    growing = PairwiseSum()
    for i in range(1000):
        growing.add(Copied((i,)))
    # One after the other they would take 500,000.
    assert growing.total().copies <= 1000 * 11


def test_the_sum_of_none_is_none():
    nothing = PairwiseSum()
    nothing.add(None)
    assert nothing.total() is None
    assert nothing.compact().sums == []
