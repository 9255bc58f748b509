import numpy as np
import pytest

from beam_quad.scoring.layers import part_of, shares_of_variance


@pytest.mark.parametrize(
    ("modules", "part"),
    [
        (["model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.k_proj"], (3, "attention")),
        (["model.layers.12.mlp.down_proj"], (12, "mlp")),
        (["transformer.h.0.attn.c_attn"], (0, "attention")),
        (["gpt_neox.layers.5.attention.query_key_value"], (5, "attention")),
        (["model.decoder.layers.1.fc1"], (1, "mlp")),
        (["transformer.h.2.attn.q_proj", "transformer.h.2.mlp.fc_in"], (2, "both")),
        (["lm_head"], (-1, "other")),
    ],
)
def test_modules_are_told_by_their_names(modules, part):
    assert part_of(modules) == part


def test_shares_are_covariances_with_the_whole_and_sum_to_one():
    rng = np.random.default_rng(0)
    influence = rng.normal(size=(50, 4)) * [1.0, 2.0, 0.0, 0.5]
    parts = [(1, "mlp"), (0, "mlp"), (0, "attention"), (1, "mlp")]
    shares = shares_of_variance(np.vstack([influence, np.full((1, 4), np.nan)]), parts)
    whole = influence.sum(axis=1)
    together = {
        (0, "attention"): influence[:, 2],
        (0, "mlp"): influence[:, 1],
        (1, "mlp"): influence[:, 0] + influence[:, 3],
    }
    assert list(shares) == list(together)
    for part, own in together.items():
        expected = np.cov(own, whole)[0, 1] / whole.var(ddof=1)
        assert shares[part] == pytest.approx(expected, abs=1e-12)
    assert sum(shares.values()) == pytest.approx(1)


def test_influence_that_does_not_vary_has_no_shares():
    assert shares_of_variance(np.ones((5, 2)), [(0, "mlp"), (1, "mlp")]) == {}
    assert shares_of_variance(np.full((5, 2), np.nan), [(0, "mlp"), (1, "mlp")]) == {}
