"""Drops the texts of excluded ids from the artifacts of earlier runs."""

import collections
import dataclasses
import re
from typing import Any

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.plan.work import Sizes, Work
from beam_quad.stages.base import Stage
from beam_quad.stages.read.excluded import Excluded

# Stages write under kind and name; other files in the folder are not ours and stay untouched.
_OURS = re.compile(r"[a-z_]+/[0-9a-f]{20}/.+\.parquet")
_TEXT_COLUMNS = {"key", "text"}
# Files in a folder are of one kind or a few, so if none of the first files has texts, the folder is skipped.
_FIRST_FILES = 8


@dataclasses.dataclass(frozen=True)
class ForgetTexts(Stage):
    """Drops the texts of excluded ids from all artifacts: the texts set aside, candidates, landmarks, samples.

    Files with the columns `key` and `text` are found by their footers, regardless of the run or version that wrote
    them. A file with an excluded key is replaced by one without these rows; its row groups, metadata and other rows
    stay. After a crash each file is either the old or the new one, and the next run finishes the rest.

    Args:
      excluded: The ids.
    """

    kind = "forgotten"
    artifact_name = "forgotten.json"

    excluded: Excluded

    @property
    def root(self) -> str:
        return self.excluded.root

    def work(self, sizes: Sizes) -> Work:
        return Work("embed")

    def pieces(self) -> list[str]:
        start = len(self.root.rstrip("/")) + 1
        folders = collections.defaultdict(list)
        for info in files.find(self.root):
            if _OURS.fullmatch(info.path[start:]):
                folders[info.path.rpartition("/")[0]].append(info.path)
        first = [path for paths in folders.values() for path in paths[:_FIRST_FILES]]
        names = files.in_parallel(aligned.column_names, first)
        with_texts = {
            path.rpartition("/")[0]
            for path, own in zip(first, names, strict=True)
            if own >= _TEXT_COLUMNS
        }
        return [path for folder in sorted(with_texts) for path in folders[folder]]

    def do(self, piece: str, model: Any) -> Tally:
        if not aligned.column_names(piece) >= _TEXT_COLUMNS:
            return Tally()
        keys = aligned.read_columns(piece, ["key"])["key"]
        number = int(self.excluded.holds(keys).sum())
        if number:
            aligned.drop_rows(piece, "key", self.excluded.holds)
        return Tally({"files": int(number > 0), "texts": number})
