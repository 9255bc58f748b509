"""The texts that stand for clusters where nothing was pulled."""

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.typical import typical_texts
from beam_quad.stages.read.corpus import piece_path
from pipelines import chain, options
from pipelines.inputs import look


def test_the_texts_of_a_cluster_are_those_nearest_to_its_center(world, tmp_path):
    flags = {"policy": "cluster_uniform"}
    world.run(tmp_path / "out", **flags)
    parsed, _ = options.parse(world.arguments(tmp_path / "out", **flags))
    stages = chain.build(parsed, look(parsed)).stages
    clusters = next(stage for stage in stages if isinstance(stage, AssignClusters))
    near: dict[int, list[tuple[float, str]]] = {0: [], 5: []}
    for split in clusters.corpus.splits():
        own, similarity = clusters.read(split)
        table = aligned.read_table(piece_path(clusters.corpus.reserve_dir, split)).to_pylist()
        for row in table:
            if own[row["row"]] in near:
                near[int(own[row["row"]])].append((similarity[row["row"]], row["text"]))
    found = typical_texts(clusters, [0, 5], 4, 30)
    for cluster, texts in found.items():
        expected = sorted(near[cluster], reverse=True)[:4]
        assert texts == [text[:30] for _, text in expected]
        assert np.diff([value for value, _ in expected]).max() < 0
    assert "Typical words and texts" in (tmp_path / "out" / "report.html").read_text()
