"""Inputs of which only the sizes are known, from which chains are built that nobody runs."""

from collections.abc import Mapping

import pyarrow as pa

from beam_quad.corpus.seen import SeenFiles
from beam_quad.corpus.splits import InputPlan
from beam_quad.embedding import AnyEmbedderSpec
from beam_quad.gradients.proxy import ProxySpec
from pipelines.inputs import Inputs


def unseen_inputs(
    documents: int,
    query: Mapping[str, int],
    embedder: AnyEmbedderSpec | None,
    context_length: int,
) -> Inputs:
    """Makes inputs of so many documents and query texts; no file is there."""
    return Inputs(
        corpus=_no_files(documents),
        query={name: _no_files(number) for name, number in query.items()},
        query_counts={},
        proxy=ProxySpec("p", context_length=context_length),
        proxy_fingerprint="p",
        skeleton=None,
        embedder=embedder,
        embedder_fingerprint="e",
        seen=SeenFiles("seen", []),
    )


def _no_files(num_rows: int) -> InputPlan:
    nothing = pa.schema([])
    return InputPlan((), nothing, nothing, "", num_rows, True, 0, 0, "")
