"""A corpus of which nothing was read yet."""

import pytest

from beam_quad.corpus.batches import Columns
from beam_quad.embedding import EmbedderSpec
from beam_quad.stages.read.corpus import Corpus


@pytest.fixture
def corpus(tmp_path):
    return Corpus(
        root=str(tmp_path / "artifacts"),
        plan_path=str(tmp_path / "plan.json.gz"),
        seen_dir=str(tmp_path / "seen"),
        layout="one split",
        columns=Columns("text", None, "n"),
        tokenizer=None,
        embedder=EmbedderSpec("hashing"),
        embedder_fingerprint="hashing",
        on_bad_file="fail",
        seed=0,
        reserve_rate=1.0,
    )
