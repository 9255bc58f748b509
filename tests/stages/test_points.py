"""What is set aside for centers while texts are embedded, without Beam."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.artifacts.json_files import write_json
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.plan import write_plan
from beam_quad.corpus.splits import plan_input
from beam_quad.stages.read import points
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.embed import EmbedExamples

NUMBER = 5000


class Numbers:
    """Gives the text of a number a vector of it, but every tenth none."""

    dim = 2

    def embed(self, texts):
        numbers = np.array([int(text) for text in texts], np.float32)
        return np.stack([numbers % 50, numbers // 50], axis=1) * (numbers % 10 != 0)[:, None]


@pytest.fixture
def embedded(corpus, tmp_path):
    """A corpus of texts that are numbers, and its split."""
    corpus = dataclasses.replace(corpus, columns=Columns("text", "id", "n"))
    shard = tmp_path / "in" / "a.jsonl"
    shard.parent.mkdir()
    lines = ({"text": str(i), "id": f"id {i}", "n": 9} for i in range(NUMBER))
    shard.write_text("\n".join(json.dumps(line) for line in lines))
    plan = plan_input((str(shard),), id_column="id", tokens_column="n")
    write_plan(corpus.plan_path, plan)
    stage = EmbedExamples(corpus, None, None)
    (split,) = corpus.splits()
    stage.finish(stage.do(split, stage.load()._replace(embedder=Numbers())))
    write_json(f"{corpus.folder}/duplicates/done.json", {"duplicates": 0, "pieces": []})
    return corpus, split


def drawn(rate):
    draws = seeding.uniform(0, "centers", seeding.keys([f"id {i}" for i in range(NUMBER)]))
    return [i for i in range(NUMBER) if draws[i] < rate and i % 10]


@pytest.mark.parametrize("rate", [0.001, 0.01, points.SHARE])
def test_a_sample_is_read_from_what_was_set_aside_and_no_embedding_is(embedded, monkeypatch, rate):
    monkeypatch.delattr("beam_quad.artifacts.aligned.read_some_embeddings")
    corpus, split = embedded
    vectors = points.read(corpus, split, rate)
    assert (vectors @ [1, 50]).astype(int).tolist() == drawn(rate)


@pytest.mark.parametrize(("rate", "is_lost"), [(0.01, True), (0.1, False), (1.05, False)])
def test_a_larger_sample_and_one_that_was_not_set_aside_are_read_from_the_embeddings(
    embedded, rate, is_lost
):
    corpus, split = embedded
    if is_lost:
        pathlib.Path(piece_path(corpus.points_dir, split)).unlink()
    vectors = points.read(corpus, split, rate)
    assert (vectors @ [1, 50]).astype(int).tolist() == drawn(rate)
