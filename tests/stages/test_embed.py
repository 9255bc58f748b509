"""What the first stage does with texts that have no embedding, without Beam."""

import concurrent.futures
import dataclasses
import itertools
import json
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import aligned
from beam_quad.corpus.plan import write_plan
from beam_quad.corpus.splits import plan_input
from beam_quad.errors import UsageError
from beam_quad.records import Reason
from beam_quad.stages.clusters.centers import FitCenters
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.texts import SampleTexts
from beam_quad.transforms.inference import LazyModel

LINES = ["first", "bad", "third", " ", "bad", "sixth"]


class Embedder:
    """Gives every text but the bad one the same vector."""

    dim = 4

    def __init__(self, bad="bad"):
        self._bad = bad

    def embed(self, texts):
        vectors = np.full((len(texts), self.dim), 0.5, np.float32)
        vectors[[text == self._bad for text in texts]] = 0
        return vectors


class Zeros(Embedder):
    """Gives no text a vector."""

    def embed(self, texts):
        return np.zeros((len(texts), self.dim), np.float32)


@pytest.fixture
def corpus(corpus, tmp_path):
    shard = tmp_path / "in" / "a.jsonl"
    shard.parent.mkdir()
    lines = [json.dumps({"text": text, "n": 5 + row}) for row, text in enumerate(LINES)]
    shard.write_text("\n".join(lines))
    write_plan(corpus.plan_path, plan_input((str(shard),), tokens_column="n"))
    return corpus


def embed(corpus, embedder):
    stage = EmbedExamples(corpus, None, None)
    (split,) = corpus.splits()
    total = stage.do(split, stage.load()._replace(embedder=embedder))
    stage.finish(total)
    return stage, split, total


def test_a_text_without_embedding_is_rejected_and_counted(corpus):
    _, split, _ = embed(corpus, Embedder())
    rows = corpus.rows(split)
    reasons = [aligned.reason_of(int(code)) for code in rows.reasons]
    none = Reason.NO_EMBEDDING
    assert reasons == [None, none, None, Reason.EMPTY_TEXT, none, None]
    assert corpus.num_usable() == int(rows.usable.sum()) == 3


def test_a_finished_split_counts_as_it_did_when_it_was_made(corpus):
    stage, split, total = embed(corpus, Embedder())
    assert stage.statistic(split) == total


def test_the_rows_do_not_depend_on_the_embedder_that_ran_with_them(corpus):
    _, split, _ = embed(corpus, Embedder())
    other = dataclasses.replace(corpus, embedder_fingerprint="another")
    assert other.rows_dir == corpus.rows_dir
    embed(other, Embedder(bad="sixth"))
    assert list(np.flatnonzero(~other.rows(split).usable)) == [3, 5]
    assert list(np.flatnonzero(~corpus.rows(split).usable)) == [1, 3, 4]


def test_the_sample_for_the_curvature_does_not_depend_on_the_embedder(corpus):
    _, split, _ = embed(corpus, Embedder())
    sample = SampleTexts(corpus, 100)
    other = dataclasses.replace(corpus, embedder_fingerprint="another")
    assert SampleTexts(other, 100).folder == sample.folder
    drawn = [aligned.unpack([part]).column("text").to_pylist() for _, part in sample.draw(split)]
    assert sorted(itertools.chain.from_iterable(drawn)) == ["bad", "bad", "first", "sixth", "third"]


def test_embeddings_that_lie_there_still_tell_who_has_none(corpus):
    embed(corpus, Embedder())
    again = dataclasses.replace(corpus, tokenizer="another")
    assert again.embeddings_dir == corpus.embeddings_dir
    assert again.rows_dir != corpus.rows_dir
    _, split, _ = embed(again, Embedder(bad="never"))
    assert list(np.flatnonzero(~again.rows(split).usable)) == [1, 3, 4]


def test_a_corpus_of_rejected_rows_says_why_and_points_to_no_file(corpus):
    embed(corpus, Zeros())
    fit = FitCenters(corpus, 2, 1.0)
    (split,) = corpus.splits()
    with pytest.raises(
        UsageError, match=r"6 rows were read and all rejected \(1 empty_text, 5 no_embedding\)"
    ) as caught:
        fit.finish(fit.do(split, None))
    assert "rejected/" not in str(caught.value)


def planned(corpus, plan):
    """Gives the corpus another plan."""
    other = dataclasses.replace(corpus, plan_path=f"{corpus.root}/other.json.gz")
    write_plan(other.plan_path, plan)
    return other


class Company(Embedder):
    """Gives a text a vector of the texts that it shares a call with."""

    def embed(self, texts):
        return np.full((len(texts), self.dim), len(texts), np.float32)


@pytest.mark.parametrize("split_bytes", [1, 10**9])
def test_what_shares_a_call_with_a_text_does_not_depend_on_how_the_shard_is_split(
    corpus, tmp_path, split_bytes
):
    table = pa.table({"text": [f"{row:09}" * 8 for row in range(9000)], "n": [5] * 9000})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=4500)
    plan = plan_input((str(tmp_path / "b.parquet"),), tokens_column="n", split_bytes=split_bytes)
    assert len(plan.splits) == (2 if split_bytes == 1 else 1)
    corpus = planned(corpus, plan)
    stage = EmbedExamples(corpus, None, None)
    model, vectors = stage.load()._replace(embedder=Company()), []
    for split in corpus.splits():
        stage.do(split, model)
        vectors += [run[:, 0] for _, run in corpus.embeddings(split)]
    np.testing.assert_array_equal(np.concatenate(vectors), 2 * ([4096] * 4096 + [404] * 404))


class InTurns(Embedder):
    """Prepares two pieces at the same time, or breaks; embeds one at a time, or fails."""

    def __init__(self):
        super().__init__()
        self._both, self._device = threading.Barrier(2), threading.Lock()

    def prepare(self, texts):
        self._both.wait(30)
        return texts

    def embed_prepared(self, texts):
        assert self._device.acquire(blocking=False), "two pieces have the device at once"
        time.sleep(0.05)
        self._device.release()
        return self.embed(texts)


def test_pieces_are_prepared_at_the_same_time_and_have_the_device_in_turns(
    corpus, tmp_path, monkeypatch
):
    for name in "xy":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "first", "n": 5}\n' * 3)
    corpus = planned(corpus, plan_input((f"{tmp_path}/*.jsonl",), tokens_column="n"))
    stage = EmbedExamples(corpus, None, None)
    model = stage.load()._replace(embedder=InTurns())
    monkeypatch.setattr(EmbedExamples, "model", lambda _: model)
    lazy = LazyModel(stage)
    with concurrent.futures.ThreadPoolExecutor(2) as bundles:
        counted = bundles.map(lazy.do, corpus.splits())
        assert [own.statistic.usable for own in counted] == [3, 3]
