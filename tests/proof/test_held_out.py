import numpy as np

from beam_quad import proof

TEXTS = [f"text number {i}" for i in range(5000)]


def test_about_a_fifth_is_held_out_and_the_rest_steers():
    steering, measuring = proof.divide(TEXTS)
    assert abs(len(measuring) / len(TEXTS) - 0.2) < 4 * (0.2 * 0.8 / len(TEXTS)) ** 0.5
    assert sorted(steering + measuring) == sorted(TEXTS)


def test_a_text_is_on_the_same_side_in_any_company():
    alone = [proof.held_out([text])[0] for text in TEXTS[:50]]
    np.testing.assert_array_equal(proof.held_out(TEXTS)[:50], alone)


def test_copies_that_differ_in_case_space_and_form_are_one_text():
    # The second has a ligature and a no-break space.
    same = ["An office, open", "an o\ufb03ce,\u00a0OPEN\n", "  an\toffice, open"]
    assert len(set(proof.fingerprints(same).tolist())) == 1
    assert len(set(proof.fingerprints(["an office", "a noffice"]).tolist())) == 2


def test_a_text_with_half_a_surrogate_pair_has_a_side():
    assert proof.held_out(["cut \ud83d"]).shape == (1,)
