from beam_quad.bandit.state import RoundRecord, scored_by_round


def test_a_round_scored_what_it_added_to_the_rounds_before():
    totals = (40, 40, 55, 61)
    log = [RoundRecord(i, 0.0, 1, 1, 0, 0.0, total) for i, total in enumerate(totals)]
    assert scored_by_round(log) == [40, 0, 15, 6]
    assert scored_by_round([]) == []
