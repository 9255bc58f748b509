"""A pipeline whose embeddings are products of its proxy's first blocks."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import aligned, cache
from beam_quad.embedding.jvp import JvpEmbedder
from beam_quad.gradients import ProxySpec, load_proxy
from pipelines import quad
from tests.gradients import tiny
from tests.pipelines.world import selected_ids

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def test_runs_share_the_vectors_of_a_proxy_that_was_loaded_once_and_has_moved(
    world, tmp_path, monkeypatch
):
    loaded = []
    monkeypatch.setattr(cache, "load_proxy", lambda spec: loaded.append(spec) or load_proxy(spec))
    shutil.copytree(world.proxy, tmp_path / "proxy")
    flags = {
        "embedder": "jvp", "jvp_blocks": 1, "jvp_tangents": 3, "embedder_dim": 40,
        "num_rounds": 1, "artifacts": tmp_path / "artifacts",
    }  # fmt: skip
    world.run(tmp_path / "a", proxy_model=tmp_path / "proxy", **flags)
    assert len(loaded) == 1  # to embed and to score
    vectors = _vectors(tmp_path / "artifacts")
    world.run(tmp_path / "b", **flags)
    assert _vectors(tmp_path / "artifacts").keys() == vectors.keys()
    assert selected_ids(tmp_path / "a") == selected_ids(tmp_path / "b")
    texts = pq.read_table(f"{world.corpus}/part-0.parquet").column("text").to_pylist()
    proxy = load_proxy(ProxySpec(world.proxy, num_threads=1))
    expected = JvpEmbedder(proxy, num_blocks=1, num_tangents=3, dim=40).embed(texts)
    (found,) = (vectors[path] for path in vectors if path.name.startswith("part-0-"))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_plan_prices_the_products(world, tmp_path, capsys):
    assert quad.main(world.arguments(tmp_path / "out", embedder="jvp", plan=True)) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("embed ")]
    # 912 texts of 26 tokens, 10 FLOPs for each of 3,584 entries and 64 multiply-adds with each token of the text.
    assert float(line.split()[2]) == pytest.approx(912 * 26 * 10 * (3584 + 64 * 26), rel=0.1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"embedder_max_tokens": 64}, "--context_length"),
        ({"embedder_revision": "main"}, "--proxy_revision"),
        ({"proxy_model": None, "tokens_column": "n", "policy": "cluster_uniform"}, "--proxy_model"),
        ({"jvp_blocks": 0}, "--jvp_blocks"),
        ({"proxy_model": "mixture"}, "mixture of experts"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(world, tmp_path, capsys, flags, words):
    if flags.get("proxy_model") == "mixture":
        tiny.model("mixtral").save_pretrained(tmp_path / "proxy")
        tiny.tokenizer().save_pretrained(tmp_path / "proxy")
        flags = flags | {"proxy_model": tmp_path / "proxy"}
    assert quad.main(world.arguments(tmp_path / "out", embedder="jvp", **flags)) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert words in message
    assert not (tmp_path / "out").exists()


def _vectors(artifacts):
    paths = sorted(artifacts.glob("embeddings/*/*.parquet"))
    return {p: np.concatenate([v for _, v in aligned.read_embeddings(str(p))]) for p in paths}
