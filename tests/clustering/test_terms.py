from beam_quad.clustering import distinctive_terms


def test_clusters_are_named_by_what_the_others_lack():
    terms = distinctive_terms(
        {
            3: ["the court ruled on the appeal", "the court heard an appeal today"],
            7: ["the cell divides today", "a cell membrane, a cell wall"],
        },
        num_terms=2,
    )
    assert terms == {3: ["appeal", "court"], 7: ["cell", "divides"]}


def test_one_text_cannot_name_a_cluster_by_repeating_itself():
    texts = {0: ["spam " * 100, "river bank", "river bed"], 1: ["mountain"]}
    assert distinctive_terms(texts, num_terms=1)[0] == ["river"]


def test_clusters_without_words_have_no_terms():
    assert distinctive_terms({0: [], 1: ["123 !!"]}) == {0: [], 1: []}
    assert distinctive_terms({0: [], 1: ["river"]}) == {0: [], 1: ["river"]}
