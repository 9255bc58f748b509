"""What the bandits of earlier runs scored, kept in one file for the run that goes on from them."""

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
    """Writes what was scored, and what the scores under each query group count in it, float64 [num_groups]."""
    columns = {field.name: getattr(evidence, field.name) for field in _EVIDENCE}
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
    """What the run that this one goes on from scored, and those before it.

    Args:
      base: That run.
      root: The folder of all artifacts.
      file: Where it is stored, relative to the root.
    """

    base: Base
    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    file: Annotated[str, identity.NotCounted("it follows from the base")]

    @once_per_process
    def load(self) -> Evidence:
        """Loads it, once per process."""
        found: dict[str, Any] = aligned.read_columns(self.path)
        facts = aligned.read_metadata(self.path)
        return Evidence(**found, squares=facts["squares"], freedom=facts["freedom"])

    def group_weights(self) -> np.ndarray:
        """What the scores under each query group count in it, float64 [num_groups]."""
        return np.array(aligned.read_metadata(self.path)["group_weights"], np.float64)

    @property
    def path(self) -> str:
        """Where it is stored."""
        return files.join(self.root, *self.file.split("/"))
