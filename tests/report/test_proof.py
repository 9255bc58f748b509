"""The page of a proof."""

import copy

from beam_quad.report.proof import about_proof, render_proof
from tests.report.parsed import Page

PROOF = {
    "verdict": "worth 1.90 times a random draw",
    "is_worth_it": True,
    "price": "its price: the general mix",
    "num_seeds": 3,
    "is_from_scratch": False,
    "recipe": {"num_tokens": 2_000_000, "num_passes": 1, "num_steps": 195, "learning_rate": 5e-4},
    "measured": {
        "held_out": {"texts": 40, "trained_on": 7},
        "general": {"texts": 500, "trained_on": 0},
    },
    "method": "gain: fall of the loss",
    "held_out": {
        "before": 3.5,
        "contenders": {
            "random": {
                "loss": 3.4, "losses": [3.4], "gain": [0.1, 0.08, 0.12],
                "lead": [0.09, 0.07, 0.11], "worth": [1.9, 1.6, 2.3],
            },
            "<dsir>": {
                "loss": 3.45, "losses": [3.45], "gain": [0.05, -0.01, 0.11],
                "lead": [0.14, 0.1, 0.18], "worth": None,
            },
            "selection": {"loss": 3.31, "losses": [3.31], "gain": [0.19, 0.17, 0.21]},
        },
    },
}  # fmt: skip


def test_the_page_shows_the_verdict_and_the_contenders_from_best_to_worst():
    page = Page(render_proof(PROOF))
    text = "".join(page.text)
    assert "Worth 1.90 times a random draw." in text
    assert text.index("selection3.31") < text.index("random3.4") < text.index("<dsir>3.45")
    assert "1.90 (1.60 to 2.30) times" in text
    assert "no gain to compare with" in text
    assert "7 more are trained on, and left out" in text
    assert "Its price: the general mix." in text
    assert "texts of the general mix" not in text
    assert not [link for link in page.links if not link.startswith("#")]


def test_the_lines_give_the_losses_of_each_set_and_end_in_the_verdict():
    both = copy.deepcopy(PROOF)
    both["general"] = both["held_out"]
    lines = list(about_proof(both))
    assert lines == [
        "loss of 40 held-out query texts: before 3.5000; after selection 3.3100, random 3.4000, <dsir> 3.4500",
        "loss of 500 texts of the general mix: before 3.5000; after selection 3.3100, random 3.4000, <dsir> 3.4500",
        "its price: the general mix",
        "worth 1.90 times a random draw",
    ]


def test_query_groups_have_a_table_and_a_line():
    proof = copy.deepcopy(PROOF)
    law = copy.deepcopy(PROOF["held_out"]) | {
        "before": 3.25,
        "weight": 2.5,
        "measured": {"texts": 12, "trained_on": 0},
    }
    proof |= {"by_group": "better for 1 of 2", "groups": {"<law>": law, "code": law}}
    page = Page(render_proof(proof))
    text = "".join(page.text)
    assert "Better for 1 of 2." in text
    assert "the weighted mean over 2 query groups: 3.500 before" in text
    assert "<law>2.5123.250selection3.310" in text.replace("\n", "")
    assert "groups" in page.ids
    lines = list(about_proof(proof))
    assert lines[0].startswith("loss of 40 held-out query texts, the weighted mean over 2 query")
    assert lines[-3:-1] == ["better for 1 of 2", "its price: the general mix"]


def test_a_training_from_scratch_and_its_passes_are_told():
    proof = copy.deepcopy(PROOF) | {"is_from_scratch": True}
    proof["recipe"]["num_passes"] = 4
    text = "".join(Page(render_proof(proof)).text)
    assert "4 passes over 2,000,000 tokens a training" in text
    assert "3 trainings of each contender, from scratch" in text
    assert "from scratch" not in render_proof(PROOF)
