"""Scores of the bandits of earlier runs, in one file for the runs that refresh their selection."""

import dataclasses
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from beam_quad import identity
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.bandit import Evidence
from beam_quad.stages.refresh.base import Base

_EVIDENCE = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("cluster", pa.int64()),
        pa.field("tokens", pa.int64()),
        pa.field("influence", pa.float64()),
        pa.field("residual", pa.float64()),
    ]
)


def write_evidence(path: str, evidence: Evidence, group_weights: np.ndarray) -> None:
    """Writes the scores and the weight of each query group in them, float64 [num_groups]."""
    columns = {field.name: getattr(evidence, field.name) for field in _EVIDENCE}
    # A later run must weigh the query groups as these scores do, or its own could not be compared with them.
    with aligned.table_writer(path, _EVIDENCE) as writer:
        writer.write(columns)
        writer.close(
            {
                "squares": evidence.squares,
                "freedom": evidence.freedom,
                "group_weights": group_weights.tolist(),
            }
        )


@dataclasses.dataclass(frozen=True)
class KnownEvidence:
    """Scores of the run that this one refreshes, and of the runs before it.

    Args:
      base: The run to refresh.
      root: The folder of all artifacts.
      file: Path of the scores, relative to the root.
    """

    base: Base
    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    file: Annotated[str, identity.NotCounted("it follows from the base")]

    @once_per_process
    def load(self) -> Evidence:
        """Loads the scores, once per process."""
        found: dict[str, Any] = aligned.read_columns(self.path)
        facts = aligned.read_metadata(self.path)
        return Evidence(**found, squares=facts["squares"], freedom=facts["freedom"])

    def group_weights(self) -> np.ndarray:
        """Weight of each query group in the scores, float64 [num_groups]."""
        return np.array(aligned.read_metadata(self.path)["group_weights"], np.float64)

    @property
    def path(self) -> str:
        """Path of the file."""
        return files.join(self.root, *self.file.split("/"))
