"""What the pulls of a finished bandit have taught: scored examples, pulled blocks, and their means."""

import dataclasses

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.bandit import BanditState
from beam_quad.bandit.scored import Scored, arm_code, mean_by_block, pulled_blocks, with_least
from beam_quad.columns import find_sorted
from beam_quad.records import Split
from beam_quad.stages.quad.bandit import Bandit
from beam_quad.stages.quad.blocks import CountBlocks


@dataclasses.dataclass(frozen=True)
class Pulled:
    """The pulled blocks of a bandit after its last round, by reference.

    Args:
      bandit: The bandit.
      num_rounds: Number of rounds run, including the pilot.
    """

    bandit: Bandit
    num_rounds: int

    @property
    def folder(self) -> str:
        """Folder of the rounds."""
        return self.bandit.folder

    def scored(self) -> Scored:
        """Reads the scored examples that can be selected, as `Bandit.scored`."""
        return self.bandit.scored(self.num_rounds)

    def known_keys(self) -> np.ndarray:
        """Keys of the scored examples, ascending, uint64 [n]."""
        return self.scored()["key"]

    @once_per_process
    def all_scored(self) -> Scored:
        """Reads the examples of this run and earlier runs that represent their clusters, as `Evidence.of_clusters`."""
        if self.bandit.known is None:
            return self.scored()
        return self.bandit.evidence(self.num_rounds).of_clusters()

    def state(self) -> BanditState:
        """Reads the state of the bandit at the end."""
        return self.bandit.state(self.num_rounds)

    @property
    def counted(self) -> CountBlocks:
        """Blocks of the clusters, the arms."""
        return self.bandit.candidates.blocks

    def arms(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cluster and the block of each row of a split, as `CountBlocks.arms`."""
        return self.counted.arms(split, rows)

    @once_per_process
    def blocks(self) -> dict[str, np.ndarray]:
        """Returns the pulled blocks: ascending `code` (`arm_code`), `round`, and mean `influence`, nan if none is finite."""
        return pulled_blocks(self.scored())

    @once_per_process
    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the mean influence of every pulled block, by ascending arm code, and of every cluster.

        A cluster without a scored example has the lowest mean of any cluster.
        """
        codes, of_block = mean_by_block(self.scored())
        return codes, of_block, with_least(self.state().arms.mean_influence)

    def places(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the cluster, the block and the index in `blocks` of each row, each int64 [n]; -1 if there is none."""
        clusters, blocks = self.arms(split, rows)
        places = find_sorted(self.blocks()["code"], arm_code(clusters, blocks))
        return clusters.astype(np.int64), blocks, np.where(clusters >= 0, places, -1)
