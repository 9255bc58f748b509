"""The texts that stand for clusters where nothing was pulled."""

import collections
import pathlib

import pytest

from beam_quad.artifacts import aligned
from beam_quad.stages.clusters import typical
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.typical import typical_texts
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.examples import read_examples
from pipelines import chain, options
from pipelines.inputs import look


@pytest.fixture(scope="module")
def output(world, tmp_path_factory) -> pathlib.Path:
    """A run without a bandit."""
    folder = tmp_path_factory.mktemp("typical") / "out"
    world.run(folder, policy="cluster_uniform")
    return folder


@pytest.fixture(scope="module")
def clusters(world, output) -> AssignClusters:
    """Its clusters."""
    parsed, _ = options.parse(world.arguments(output, policy="cluster_uniform"))
    stages = chain.build(parsed, look(parsed)).stages
    return next(stage for stage in stages if isinstance(stage, AssignClusters))


def nearest(clusters, texts_of) -> dict[int, list[str]]:
    """All texts by cluster, the nearest to the center first, of what is given of each split: rows and texts."""
    near = collections.defaultdict(list)
    for split in clusters.corpus.splits():
        own, similarity = clusters.read(split)
        for row, text in texts_of(split):
            near[int(own[row])].append((similarity[row], text))
    return {c: [text for _, text in sorted(pairs, reverse=True)] for c, pairs in near.items()}


def test_the_texts_of_a_cluster_are_those_nearest_to_its_center(clusters):
    def reserved(split):
        table = aligned.read_table(piece_path(clusters.corpus.reserve_dir, split))
        return [(row["row"], row["text"]) for row in table.to_pylist()]

    expected = nearest(clusters, reserved)
    found = typical_texts(clusters, [0, 5], 4, 30)
    assert found == {c: [text[:30] for text in expected[c][:4]] for c in (0, 5)}


def test_of_clusters_of_which_nothing_is_set_aside_texts_are_read_from_the_input(
    clusters, monkeypatch
):
    monkeypatch.setattr(typical.aligned, "read_batches", lambda *_: [])
    first, *_ = clusters.corpus.splits()

    def all_of_first(split):
        examples = read_examples(clusters.corpus, split, range(10**6)) if split == first else ()
        return [(row, text) for row, _, text in examples if clusters.read(split)[0][row] >= 0]

    expected = nearest(clusters, all_of_first)
    assert len(expected) > 3
    found = typical_texts(clusters, expected, 4, 30)
    assert found == {c: [text[:30] for text in texts[:3]] for c, texts in expected.items()}


def test_every_cluster_of_a_page_has_its_texts(clusters, output):
    page = (output / "report.html").read_text()
    number = int((clusters.sums().examples > 0).sum())
    assert page.count("<summary>typical texts</summary>") == number
    assert page.count("<title>cluster ") == number
