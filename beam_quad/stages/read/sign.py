"""Signatures of texts, used to find near-duplicates."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, TextSizes, Work, pass_over
from beam_quad.records import Split
from beam_quad.selection.near_duplicates import (
    NUM_HASHES,
    SIGNATURE_DTYPE,
    SIGNATURE_VERSION,
    sign,
)
from beam_quad.stages.read.text_stage import TextStage


@dataclasses.dataclass(frozen=True)
class SignTexts(TextStage):
    """Signs the texts of all splits; a row without a text has a signature of zeros."""

    kind = "signatures"
    artifact_name = "signatures.json"
    schema = pa.schema([pa.field("signature", pa.binary(SIGNATURE_DTYPE.itemsize * NUM_HASHES))])
    # Few rows are read, so small row groups let most of a file be skipped.
    group_rows = 4096

    def work(self, sizes: Sizes) -> Work:
        # `EmbedExamples` makes the files, which takes their CPU time.
        texts = self.texts_of(sizes)
        stored = float(SIGNATURE_DTYPE.itemsize * NUM_HASHES * texts.documents)
        own = pass_over(texts, "near-duplicates")
        return dataclasses.replace(own, bytes_stored=stored)

    def text_s(self, texts: TextSizes) -> float:
        return texts.text_bytes * rates.SIGN_BYTE_S

    def made_from(self) -> tuple[object, ...]:
        return (SIGNATURE_VERSION,)

    def columns_of(self, texts: Sequence[str | None]) -> dict[str, Any]:
        has_text = np.array([text is not None for text in texts], bool)
        signatures = np.zeros((len(texts), NUM_HASHES), SIGNATURE_DTYPE)
        signatures[has_text] = sign([text for text in texts if text is not None])
        return {"signature": aligned.vector_column(signatures, SIGNATURE_DTYPE)}

    def statistic(self, piece: Split) -> Tally:
        return Tally()

    def read(self, split: Split, rows: np.ndarray) -> np.ndarray:
        """Reads the signatures of some rows of a split, int64 [m] ascending: uint16 [m, NUM_HASHES]."""
        if not len(rows):
            return np.zeros((0, NUM_HASHES), SIGNATURE_DTYPE)
        return aligned.read_some_vectors(self.path_of(split), "signature", SIGNATURE_DTYPE, rows)
