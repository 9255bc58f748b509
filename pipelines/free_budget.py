"""What the base of a bandit's refresh leaves for new documents, as far as the launcher knows; see `CountFree`."""

import numpy as np

from beam_quad.artifacts import files
from beam_quad.records import Budget
from beam_quad.stages.read.corpus import piece_name
from pipelines.inputs import Inputs
from pipelines.refresh import Found


def free_tokens(inputs: Inputs, base: Found, budget: Budget) -> int:
    """Returns the tokens of the budget left for new rows."""
    present = {piece_name(split) for split in inputs.corpus.splits}
    excluded = inputs.excluded
    # Without excluded ids, only splits that are gone or changed can lose rows; no other is read.
    looked_at = [
        split
        for name, split in base.selection.splits().items()
        if excluded is not None or name not in present
    ]
    free = budget.amount - base.manifest["tokens"]["selected"]
    selected = files.in_parallel(base.selection.selected, looked_at)
    for split, rows in zip(looked_at, selected, strict=True):
        # A changed split has another name, and its old rows are all taken for gone.
        leaves = np.full(len(rows["row"]), piece_name(split) not in present)
        if excluded is not None:
            leaves |= excluded.holds(rows["key"])
        free += int(rows["tokens"][leaves].sum())
    return int(free)


def has_new_leaks(inputs: Inputs, base: Found) -> bool:
    """Tells whether texts are forbidden that were not when the base was made, so that its rows may leak now."""
    if inputs.leaks is None:
        return False
    before = base.manifest["fingerprints"].get("leaks")
    return bool(before != inputs.leaks.leaks.digest)


def slack(base: Found) -> int:
    """Returns the tokens by which the base missed its budget without a warning, less than one example."""
    tokens = base.manifest["tokens"]
    return 0 if base.manifest["shortfall"] else max(0, tokens["budget"] - tokens["selected"])
