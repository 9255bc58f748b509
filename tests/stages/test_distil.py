"""Vectors of tokens that a run distils are those that are distilled in memory."""

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from beam_quad.embedding import EmbedderSpec, StaticSpec, embedder_costs, load_embedder
from beam_quad.stages.base import run_in_process
from beam_quad.stages.read.distil import DistilTokens
from beam_quad.stages.read.embedder import load_stored_embedder
from pipelines import chain, options, quad
from pipelines.inputs import look
from tests.embedding import test_encoders as encoders

TEXTS = ["1 2 3", "4 5 6 7 8 9", "31"]


def built(world, tmp_path, **flags):
    folder = encoders.save(tmp_path / "encoder", encoders.bert())
    arguments = world.arguments(tmp_path / "out", embedder=f"static:{folder}", **flags)
    parsed, _ = options.parse(arguments)
    return chain.build(parsed, look(parsed)).stages


def test_a_run_distils_before_it_embeds_what_is_distilled_in_memory(world, tmp_path):
    distil, embed, *_ = built(world, tmp_path)
    assert type(distil) is DistilTokens
    spec = embed.corpus.embedder
    run_in_process([distil])
    stored = load_stored_embedder(spec).embed(TEXTS)
    np.testing.assert_allclose(np.abs(stored @ stored.T), np.abs(_gram(spec)), atol=1e-5)


def test_distilling_is_planned_at_what_it_takes(tmp_path):
    folder = encoders.save(tmp_path / "encoder", encoders.bert())
    spec = StaticSpec(EmbedderSpec(str(folder)))
    with FlopCounterMode(display=False) as counter:
        load_embedder(spec)
    # Attention is not counted, and a token has few others to attend to.
    assert embedder_costs(spec).fit_flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def _gram(spec):
    vectors = load_embedder(spec).embed(TEXTS)
    return vectors @ vectors.T


def test_a_static_model_is_not_distilled(world, tmp_path):
    folder = encoders.static(tmp_path / "model")
    parsed, _ = options.parse(world.arguments(tmp_path / "out", embedder=f"static:{folder}"))
    first, *_ = chain.build(parsed, look(parsed)).stages
    assert first.corpus.embedder.table is None
    assert load_stored_embedder(first.corpus.embedder).embed(TEXTS).shape == (3, 8)


def test_a_run_selects_with_it_and_another_run_distils_nothing(world, tmp_path):
    folder = encoders.save(tmp_path / "encoder", encoders.bert())
    flags = {"embedder": f"static:{folder}", "artifacts": tmp_path / "kept"}
    first = world.launch(tmp_path / "one", **flags)
    (table,) = (tmp_path / "kept" / "token_vectors").glob("*/vectors.npz")
    before = table.stat().st_mtime_ns
    second = world.run(tmp_path / "two", policy="cluster_uniform", **flags)
    assert first["counts"]["selected"]
    assert second["counts"]["selected"]
    assert table.stat().st_mtime_ns == before


def test_a_prompt_is_refused(world, tmp_path, capsys):
    flags = {"embedder": "static", "embedder_prompt": "query: "}
    assert quad.main(world.arguments(tmp_path / "out", **flags)) == 2
    assert "--embedder=static averages tokens" in capsys.readouterr().err
