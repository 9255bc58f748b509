"""Cuts the groups of a programme to fill the budget within every bound, to within one document."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

from beam_quad.records import finite_or_none
from beam_quad.selection.bands import Bands, GroupSample
from beam_quad.selection.programme import Programme, System, solve
from beam_quad.selection.ranking import NOTHING
from beam_quad.selection.shares import Bound

Array = np.ndarray[Any, np.dtype[Any]]

# Number of documents on each side of a group's cut that the integer programme may add or drop.
_WINDOW = 4
# In nodes rather than seconds, so that the result does not depend on the machine.
_MOST_NODES = 2_000
# Cost of overshooting a bound, relative to missing it.
_SPARED_COST = 0.1
# Cost of one document more or fewer than in the linear programme, relative to missing a bound by one document.
_FAR_COST = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class BandDocuments:
    """The documents of the bands in which groups end and of neighbouring bands. An additive statistic.

    Attributes:
      group: int64 [n].
      packed: Priorities, uint64 [n].
      amount: Cost of each in the unit of the budget, int64 [n].
    """

    group: Array
    packed: Array
    amount: Array

    @classmethod
    def of(
        cls, programme: Programme, bands: Bands, groups: Array, packed: Array, amounts: Array
    ) -> "BandDocuments":
        """Gathers rows. Arguments as for `GroupSample.of`."""
        first, last = _gathered(programme.cut, bands)
        found = bands.of(groups, packed)
        at = np.flatnonzero((found >= first[groups]) & (found <= last[groups]))
        return cls(groups[at].astype(np.int64), packed[at], np.asarray(amounts)[at])

    @classmethod
    def none(cls) -> "BandDocuments":
        """Gathers nothing."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing.astype(np.uint64), nothing)

    def __add__(self, other: "BandDocuments") -> "BandDocuments":
        return BandDocuments(
            np.concatenate([self.group, other.group]),
            np.concatenate([self.packed, other.packed]),
            np.concatenate([self.amount, other.amount]),
        )


def _gathered(cut: Array, bands: Bands) -> tuple[Array, Array]:
    """The first and the last band of each group whose documents are gathered; none if the last precedes the first."""
    groups = np.arange(len(cut))
    firsts, lasts = (np.searchsorted(bands.group, groups, side) for side in ("left", "right"))
    # In a group that was sampled whole a band may be a single document, so the window spans several bands.
    around = np.where(bands.is_whole, _WINDOW, 0)
    first = np.maximum(cut - around, firsts)
    last = np.minimum(cut + around, lasts - 1)
    return np.where(cut >= 0, first, 0), np.where(cut >= 0, last, -2)


@dataclasses.dataclass(frozen=True, eq=False)
class GroupCuts:
    """The end of each group, to the document.

    Attributes:
      floors: The lowest selected priority of each group, uint64 [num_groups]; `NOTHING` if nothing is selected.
      taken: Amount selected from each group, int64 [num_groups].
    """

    floors: Array
    taken: Array


def cut_groups(
    system: System, programme: Programme, bands: Bands, amounts: Array, documents: BandDocuments
) -> GroupCuts:
    """Cuts the groups to fill the budget within every bound, to within one document.

    Args:
      system: The bounds.
      programme: The programme, solved.
      bands: The groups in bands.
      amounts: Amount of each band, int64 [num_bands].
      documents: Documents of the bands in which groups end.
    """
    floors, taken = programme.floors.copy(), np.zeros(system.num_groups, np.int64)
    # A group that ends between bands takes every band down to its floor.
    reached = bands.floor >= floors[bands.group]
    np.add.at(taken, bands.group[reached], amounts[reached])
    first, _ = _gathered(programme.cut, bands)
    windows = []
    for group in np.flatnonzero(programme.cut >= 0).tolist():
        is_before = (bands.group == group) & (np.arange(len(bands.group)) < first[group])
        base = int(amounts[is_before].sum())
        packed, own = _by_priority(documents, group)
        filled = base + np.cumsum(own)
        # The document at which the linear programme ends the group; the integer programme may move the end around it.
        at = int(np.searchsorted(filled, programme.taken[group]))
        start, end = max(0, at - _WINDOW), min(len(own), at + _WINDOW)
        is_beyond = np.arange(start, end) >= at
        windows.append((group, packed, filled, own[start:end], is_beyond, start))
        taken[group] = filled[start - 1] if start else base
        floors[group] = packed[start - 1] if start else _floor_before(bands, group, first[group])
    if windows:
        sizes = [window[3] for window in windows]
        groups = np.repeat([window[0] for window in windows], [len(own) for own in sizes])
        is_beyond = np.concatenate([window[4] for window in windows])
        counts = _nearest(system, programme, taken, groups, np.concatenate(sizes), is_beyond)
        for (group, packed, filled, _, _, start), number in zip(windows, counts, strict=True):
            if number:
                floors[group] = packed[start + number - 1]
                taken[group] = filled[start + number - 1]
    return GroupCuts(floors, taken)


def _floor_before(bands: Bands, group: int, first: int) -> Any:
    is_top = first == 0 or bands.group[first - 1] != group
    return NOTHING if is_top else bands.floor[first - 1]


def _by_priority(documents: BandDocuments, group: int) -> tuple[Array, Array]:
    """The documents of a group, best first: distinct priorities, and the total amount at each."""
    own = documents.group == group
    packed, at = np.unique(documents.packed[own], return_inverse=True)
    amounts = np.bincount(at, weights=documents.amount[own]).astype(np.int64)
    return packed[::-1], amounts[::-1]


def _nearest(
    system: System,
    programme: Programme,
    taken: Array,
    groups: Array,
    sizes: Array,
    is_beyond: Array,
) -> list[int]:
    """Finds how many of the next documents each group gives, so that bounds are missed by as little as possible.

    Args:
      system: The bounds.
      programme: The programme, solved.
      taken: Amount selected from each group before these documents, int64 [num_groups].
      groups: Group of each document, the best of a group first, runs of equal groups, int64 [n].
      sizes: Cost of each document in the unit of the budget, int64 [n].
      is_beyond: True for documents the linear programme leaves out or takes in part, bool [n].

    Returns:
      A number for each run.
    """
    # In units of the longest document, so that a bound is missed by less than 1.
    unit = float(sizes.max())
    members = system.rows()
    relations = np.array(["=", *system.relations])
    wanted = (np.append(1.0, system.shares) - programme.missing) * programme.budget
    wanted = (wanted - members @ taken) / unit
    num, rows = len(sizes), members[:, groups] @ scipy.sparse.diags_array(sizes / unit)
    num_rows = len(relations)
    # Unknowns: which documents are taken, how far each bound is missed from below and from above, and the largest miss.
    # Overshooting a bound costs its price; the budget may be exceeded by one document.
    is_harm = np.stack([relations != "<=", relations != ">="])
    is_harm[1, 0] = False
    prices = np.abs(np.append(0.0, programme.prices))
    spared = _SPARED_COST * prices / (prices.max() or 1.0)
    costs = np.where(is_harm, 1.0, spared)
    most = np.full((2, num_rows), np.inf)
    costs[1, 0], most[1, 0] = _SPARED_COST, 1.0
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    follows = np.setdiff1d(np.arange(num), starts)
    # Within a group a document may be taken only if the one ranked before it is.
    unit_rows, each = scipy.sparse.eye_array(num_rows), scipy.sparse.eye_array(num, format="csr")
    harms = [scipy.sparse.diags_array(own.astype(float)) for own in is_harm]
    constraints = scipy.sparse.block_array(
        [
            [rows, unit_rows, -unit_rows, None],
            [None, *harms, -np.ones((num_rows, 1))],
            [each[follows] - each[follows - 1], None, None, None],
        ],
        format="csr",
    )
    lower = np.concatenate([wanted, np.full(num_rows + len(follows), -np.inf)])
    upper = np.concatenate([wanted, np.zeros(num_rows + len(follows))])
    # The largest miss costs as much as all bounds missed by it would, so misses are spread over the bounds.
    found = scipy.optimize.milp(
        np.concatenate([np.where(is_beyond, _FAR_COST, -_FAR_COST), *costs, [num_rows]]),
        integrality=np.append(np.ones(num), np.zeros(2 * num_rows + 1)),
        bounds=scipy.optimize.Bounds(0, np.concatenate([np.ones(num), *most, [np.inf]])),
        constraints=scipy.optimize.LinearConstraint(constraints, lower, upper),
        options={"node_limit": _MOST_NODES, "mip_rel_gap": 0.05},
    )
    if found.x is None:
        raise ArithmeticError(
            f"the documents at the ends of the groups were not found: {found.message}"
        )
    is_taken = np.round(found.x[:num]).astype(np.int64)
    return [int(number) for number in np.add.reduceat(is_taken, starts)]


def cut_shares(
    system: System,
    groups: Array,
    keys: Array,
    packed: Array,
    amounts: Array,
    values: Array,
    influence: Array | None,
    budget: int,
    seed: int,
    num_priced: int | None = None,
) -> tuple[Programme, GroupCuts]:
    """Fills a budget within bounds over an in-memory corpus, with the same result as the distributed sums.

    Args:
      system: The bounds.
      groups: Group of each document, int [n].
      keys: uint64 [n].
      packed: Priorities, uint64 [n]; 0 for documents that cannot be selected.
      amounts: Cost of each document in the unit of the budget, int64 [n].
      values: Ranking value of each document, float64 [n].
      influence: Influence of each document, float64 [n], or None if it is unknown.
      budget: In the same unit as the amounts.
      seed: The run's seed.
      num_priced: As for `programme.solve`.
    """
    sample = GroupSample.of(
        system.num_groups, groups, keys, packed, amounts, values, influence, seed
    )
    bands = sample.bands()
    held = bands.count(groups, packed, amounts)
    programme = solve(system, bands, held, budget, num_priced)
    documents = BandDocuments.of(programme, bands, groups, packed, amounts)
    return programme, cut_groups(system, programme, bands, held, documents)


def about_shares(
    bounds: Sequence[Bound], system: System, programme: Programme, cuts: GroupCuts, unit: str
) -> dict[str, Any]:
    """Reports for the manifest how each bound was met and what it costs.

    `price_per_million` is what the next thousandth of the budget costs by which a bound is tightened, in value per million
    tokens or documents of it; `saving_per_million` is what the last thousandth costs, which a looser bound would save. A
    bound binds (`is_binding`) if it saves anything.

    Args:
      bounds: The bounds, which come first in the system; the remaining ones cap clusters.
      system: The bounds over the groups.
      programme: The programme, solved.
      cuts: The cuts of the groups.
      unit: One word that names what a value measures.
    """
    budget = programme.budget
    got = (system.members @ cuts.taken).tolist()
    prices = programme.prices.tolist()
    ahead, behind = programme.prices_ahead.tolist(), programme.prices_behind.tolist()
    rows = [
        {
            "bound": bound.text,
            "relation": bound.relation,
            "asked": bound.share * budget,
            "selected": got[i],
            "share": got[i] / budget,
            "is_binding": bool(programme.is_binding[i]),
            "price_per_million": ahead[i] * 1e6,
            "saving_per_million": behind[i] * 1e6,
        }
        for i, bound in enumerate(bounds)
    ]
    result: dict[str, Any] = {"bounds": rows}
    of_clusters = slice(len(bounds), None)
    if got[of_clusters]:
        share = float(system.shares[-1])
        result["clusters"] = {
            "bound": f"max_share_per_cluster <= {share}",
            "asked": share * budget,
            "most_selected": max(got[of_clusters]),
            "binding": int(programme.is_binding[of_clusters].sum()),
            "highest_price_per_million": max(prices[of_clusters]) * 1e6,
        }
    result["mean"] = {
        "of": unit,
        "selected": finite_or_none(programme.value),
        "without_bounds": finite_or_none(programme.value_without),
    }
    if np.isfinite(programme.influence) and unit != "influence":
        result["mean_influence"] = {
            "selected": programme.influence,
            "without_bounds": programme.influence_without,
        }
    result["missing"] = programme.num_missing
    return result
