"""Fills a budget within shares: a linear programme over sums, cut to the document.

A *group* holds documents that meet the same bounds. Within a group the best come first, so a selection is an amount per
group, whose value is a concave curve. With the curve cut into bands, from the best down,

    max  sum_j v_j u_j    subject to    0 <= u_j <= size_j,    sum_j u_j = budget,    the bounds,

with u_j the amount band j gives. This takes three sums over the corpus, and no worker holds more than its own rows and
a bounded sample:

1. `GroupSample` draws some of each group by hash. The sample decides where bands end, which grow longer from the top,
   and what each band is worth. If it holds a whole group, the first bands of that group are single documents.
2. The amounts of the bands give the programme, which HiGHS solves. At a vertex, no more bands are partly taken than
   there are bounds; all other groups end at a known priority. Its duals are the prices of the bounds.
3. `BandDocuments` of those few bands. A small integer programme chooses the whole documents that come nearest.

References:
  Huangfu & Hall, Parallelizing the dual revised simplex method, 2018 (HiGHS).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.selection.bands import Bands
from beam_quad.selection.ranking import NOTHING
from beam_quad.selection.shares import Bound

Array = np.ndarray[Any, np.dtype[Any]]

# Tolerance of a share in the programme, of the budget: the error of floating point.
_NOISE = 1e-9
# Cost of falling short of the budget, relative to falling short of a bound.
_BUDGET_COST = 0.01
# Share of the budget by which a bound is shifted to find its price. Shifts are solved for at most so many bounds, and only in a
# programme of at most so many blocks.
_STEP = 1e-3
_MOST_PRICED, _MOST_PRICED_BLOCKS = 100, 1 << 16
# The status of `scipy.optimize.linprog` if there is no solution.
_INFEASIBLE = 2


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """Bounds over groups.

    Attributes:
      members: True for the groups each bound covers, bool [num_bounds, num_groups].
      relations: ">=", "<=" or "=" of each bound.
      shares: Of the budget, float64 [num_bounds].
    """

    members: Array
    relations: tuple[str, ...]
    shares: Array

    @classmethod
    def of(cls, bounds: Sequence[Bound], members: Array) -> "System":
        """Makes the system of bounds. Arguments as for the attributes."""
        shares = np.array([bound.share for bound in bounds], np.float64)
        return cls(np.asarray(members, bool), tuple(b.relation for b in bounds), shares)

    @classmethod
    def free(cls, num_groups: int) -> "System":
        """The system of no bound."""
        return cls(np.zeros((0, num_groups), bool), (), np.zeros(0))

    def by_cluster(self, num_clusters: int, share: float) -> "System":
        """Splits each group by cluster, the rows in none of the clusters first, and caps each cluster."""
        number = self.num_groups
        own = np.repeat(np.eye(num_clusters, dtype=bool), number, axis=1)
        caps = np.concatenate([np.zeros((num_clusters, number), bool), own], axis=1)
        members = np.tile(self.members, (1, 1 + num_clusters))
        return System(
            np.concatenate([members, caps]),
            (*self.relations, *["<="] * num_clusters),
            np.append(self.shares, np.full(num_clusters, share)),
        )

    def only(self, bounds: Sequence[int]) -> "System":
        """The system of some of the bounds, by number."""
        at = list(bounds)
        return System(self.members[at], tuple(self.relations[i] for i in at), self.shares[at])

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return int(self.members.shape[1])

    def rows(self) -> Any:
        """The budget and the bounds as rows over the groups, sparse float64 [1 + num_bounds, num_groups]."""
        # A cap on each of thousands of clusters makes as many bounds, of a few groups each.
        members = scipy.sparse.csc_array(self.members.astype(np.float64))
        everything = np.ones((1, self.num_groups))
        return scipy.sparse.vstack([everything, members], format="csc")

    @property
    def shut(self) -> Array:
        """Groups that a share of 0 excludes, bool [num_groups]."""
        at = [i for i, r in enumerate(self.relations) if r != ">=" and self.shares[i] == 0]
        return np.asarray(self.members[at].any(axis=0))

    @property
    def asked(self) -> Array:
        """Groups that a share asks for, bool [num_groups]."""
        at = [i for i, r in enumerate(self.relations) if r != "<=" and self.shares[i] > 0]
        return np.asarray(self.members[at].any(axis=0))


def smallest_contradiction(system: System, amounts: Array, budget: float) -> list[int]:
    """Finds a minimal set of bounds that cannot be met together.

    Args:
      system: The bounds.
      amounts: Amount in each group, in the unit of the budget, [num_groups].
      budget: The budget, to be filled completely.

    Returns:
      Numbers of the bounds, ascending; empty if all can be met, or if the groups together hold less than the budget.
    """
    held = np.asarray(amounts, np.float64) / budget
    kept = list(range(len(system.relations)))
    if held.sum() < 1 - _NOISE or _is_feasible(system, held):
        return []
    # Drops bounds one by one while the rest still contradict each other: what remains is minimal.
    for bound in reversed(range(len(system.relations))):
        fewer = [i for i in kept if i != bound]
        if not _is_feasible(system.only(fewer), held):
            kept = fewer
    return kept


def refuse_unmet(
    bounds: Sequence[Bound],
    members: Array,
    held: Array,
    budget: Budget,
    absent: Sequence[str] = (),
    flag: str = "--share",
) -> None:
    """Refuses bounds the documents cannot meet.

    Args:
      bounds: The bounds.
      members: True for the groups each bound covers, bool [num_bounds, num_groups].
      held: Amount in each group, in the unit of the budget, int64 [num_groups].
      budget: The budget.
      absent: Columns without a value in any document.
      flag: The option that gave the bounds, for messages.

    Raises:
      UsageError: One line that names a minimal set of bounds that cannot be met together.
    """
    for bound in bounds:
        if bound.condition.column in absent:
            raise UsageError(
                f"{flag} {bound.text!r}: no document has a value in column {bound.condition.column!r}; check its name"
            )
    unit, amount = budget.unit, budget.amount
    if held.sum() < amount:
        raise UsageError(
            f"{flag}: the documents that can be selected hold {held.sum():,} {unit}, and shares are of the {amount:,} of "
            f"--budget_{unit}; lower it, or give a larger corpus"
        )
    found = smallest_contradiction(System.of(bounds, members), held, amount)
    if not found:
        return
    matched = [int(held[members[i]].sum()) for i in found]
    if len(found) > 1:
        texts = "; ".join(
            f"{bounds[i].text!r} ({own:,} {unit} match)"
            for i, own in zip(found, matched, strict=True)
        )
        raise UsageError(
            f"{flag}: no {amount:,} {unit} of these documents meet {texts} together; change or leave out one of them"
        )
    bound, own = bounds[found[0]], matched[0]
    asked = math.ceil(bound.share * amount)
    if bound.relation != "<=" and own < asked:
        raise UsageError(
            f"{flag} {bound.text!r} asks for {asked:,} of {amount:,} {unit}, and the documents that match hold {own:,}; lower "
            "the share or the budget, or give more of them"
        )
    raise UsageError(
        f"{flag} {bound.text!r} leaves {amount - asked:,} of {amount:,} {unit} to documents that do not match, and these hold "
        f"{held.sum() - own:,}; raise the share, lower the budget, or give more of them"
    )


def _is_feasible(system: System, held: Array) -> bool:
    return not _missing(system, held).any()


@dataclasses.dataclass(frozen=True, eq=False)
class Programme:
    """A solved linear programme.

    Attributes:
      budget: In tokens or documents.
      taken: Amount selected from each group, float64 [num_groups].
      prices: Value lost per unit of the budget by which a bound is tightened, float64 [num_bounds]: the dual, a slope.
      prices_ahead: The same of the next thousandth of the budget by which it is tightened, float64 [num_bounds].
      prices_behind: The same of the thousandth last asked for: what a looser bound would save, float64 [num_bounds].
      value: Mean value of the selection, weighted by budget.
      influence: Mean influence of the selection; nan if unknown.
      value_without: Mean value of the selection without bounds.
      influence_without: Mean influence of the selection without bounds.
      missing: Amount by which the budget, and then each bound, had to give way, as a share of the budget, float64 [1 +
        num_bounds]; 0 if the groups hold enough.
      cut: Band of each group in which the selection ends, int64 [num_groups]; -1 if it ends between two bands.
      floors: The lowest selected priority of each group, if known, uint64 [num_groups].
    """

    budget: int
    taken: Array
    prices: Array
    prices_ahead: Array
    prices_behind: Array
    value: float
    influence: float
    value_without: float
    influence_without: float
    missing: Array
    cut: Array
    floors: Array

    @property
    def is_binding(self) -> Array:
        """Bounds without which the selection would be worth more, bool [num_bounds]: shifting them to one side gains."""
        # Only a bound of "=" can gain by being tightened, which raises its share.
        return np.asarray((self.prices_behind > 0) | (self.prices_ahead < 0))

    @property
    def num_missing(self) -> int:
        """The part of the budget the groups could not fill, in its unit."""
        return round(float(self.missing[0]) * self.budget)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Programme":
        """Makes a programme from its fields, which may be zero-dimensional arrays."""
        arrays = {name: np.asarray(value) for name, value in stored.items()}
        fields: dict[str, Any] = {n: a if a.ndim else a.item() for n, a in arrays.items()}
        return cls(**fields)


def solve(
    system: System, bands: Bands, amounts: Array, budget: int, num_priced: int | None = None
) -> Programme:
    """Finds how much each group gives.

    If the groups hold less than a bound or the budget asks for, it gives way to what they hold.

    Args:
      system: The bounds.
      bands: The groups in bands.
      amounts: Amount of each band, int64 [num_bands].
      budget: The budget, in the same unit.
      num_priced: How many bounds, from the first, get prices on both sides, if the programme is not too large to be
        solved again; None for all. The others, and those beyond the first hundred, have their slope on both sides.
    """
    size = amounts / budget
    block = _concave(bands.group, size, bands.value)
    num_blocks = int(block[-1]) + 1 if len(block) else 0
    group = np.zeros(num_blocks, np.int64)
    group[block] = bands.group
    held = np.bincount(block, weights=size, minlength=num_blocks)
    worth = np.bincount(block, weights=size * bands.value, minlength=num_blocks)
    value = np.divide(worth, held, out=np.zeros(num_blocks), where=held > 0)

    own = np.bincount(group, weights=held, minlength=system.num_groups)
    missing = _missing(system, own)
    problem = _Problem(system, group, held, value, missing)
    given, prices = problem.optimum()
    ahead, behind = prices.copy(), prices.copy()
    if num_blocks <= _MOST_PRICED_BLOCKS:
        for bound in range(len(prices))[:num_priced][:_MOST_PRICED]:
            ahead[bound], behind[bound] = problem.sides(bound, prices[bound], given)
    # Without bounds the optimum is greedy: the best blocks first, from any group.
    best = np.argsort(-value, kind="stable")
    without = np.empty(num_blocks)
    without[best] = np.clip(1 - (np.cumsum(held[best]) - held[best]), 0, held[best])
    taken = np.bincount(group, weights=given, minlength=system.num_groups)
    of_all = np.bincount(group, weights=without, minlength=system.num_groups)
    parts, free = _parts(bands.group, size, taken), _parts(bands.group, size, of_all)
    cut, floors = _where_cut(bands, size, parts)
    return Programme(
        budget=budget,
        taken=taken * budget,
        prices=prices,
        prices_ahead=ahead,
        prices_behind=behind,
        value=_mean(parts, bands.value),
        influence=_mean(parts, bands.influence),
        value_without=_mean(free, bands.value),
        influence_without=_mean(free, bands.influence),
        missing=missing,
        cut=cut,
        floors=floors,
    )


def _mean(weights: Array, values: Array) -> float:
    at = weights > 0
    return float(np.sum(weights[at] * values[at]) / weights[at].sum()) if at.any() else np.nan


def _concave(group: Array, size: Array, value: Array) -> Array:
    """Joins each band that precedes a better one in its group, so that the value of a group is a concave curve.

    If the ranking is by value, nothing is joined. Returns the block of each band, ascending, int64 [num_bands].
    """
    firsts: list[int] = []
    sizes: list[float] = []
    values: list[float] = []
    for i in range(len(group)):
        first, own, worth = i, float(size[i]), float(value[i])
        while firsts and group[firsts[-1]] == group[i] and values[-1] < worth:
            first, before = firsts.pop(), sizes.pop()
            whole = before + own
            worth = (values.pop() * before + worth * own) / whole if whole > 0 else worth
            own = whole
        firsts.append(first)
        sizes.append(own)
        values.append(worth)
    starts = np.zeros(len(group), np.int64)
    starts[firsts] = 1
    return np.asarray(np.cumsum(starts) - 1)


def _parts(group: Array, size: Array, taken: Array) -> Array:
    """Fills the bands of each group from the best down: the amount taken from each, float64 [num_bands]."""
    before = np.cumsum(size) - size
    firsts = np.searchsorted(group, np.arange(len(taken)))
    before -= np.append(before, 0.0)[firsts][group]
    return np.asarray(np.clip(taken[group] - before, 0.0, size))


def _where_cut(bands: Bands, size: Array, parts: Array) -> tuple[Array, Array]:
    """Finds the end of each group; see `Programme`."""
    num_groups = len(bands.is_whole)
    cut, floors = np.full(num_groups, -1, np.int64), np.full(num_groups, NOTHING)
    # The solver is exact only to `_NOISE`: without it, a band taken whole would look cut.
    whole = parts > size - _NOISE
    for band in np.flatnonzero((parts > _NOISE) & (size > 0)).tolist():
        group = bands.group[band]
        if whole[band]:
            floors[group] = bands.floor[band]
        else:
            cut[group] = band
    return cut, floors


def _missing(system: System, held: Array) -> Array:
    """Finds by how much bounds must give way if they cannot be met.

    Args:
      system: The bounds.
      held: Amount in each group, as a share of the budget, float64 [num_groups].

    Returns:
      float64 [1 + num_bounds], of the budget: the shortfall of the budget itself, then the reduction of each bound;
      negative if the bound allows more.
    """
    num_bounds = len(system.relations)
    relations, shares = np.array(["=", *system.relations]), np.append(1.0, system.shares)
    adds, takes = relations != "<=", relations != ">="
    # The budget may fall short but is never exceeded.
    takes[0] = False
    unit = scipy.sparse.eye_array(1 + num_bounds, format="csc")
    slacks = scipy.sparse.hstack([unit[:, adds], -unit[:, takes]])
    rows = scipy.sparse.hstack([system.rows(), slacks], format="csr")
    # A short budget costs less than a broken bound, so the budget gives way first.
    costs = np.concatenate(
        [np.zeros(system.num_groups), [_BUDGET_COST], np.ones(slacks.shape[1] - 1)]
    )
    limits = [*((0, limit) for limit in held), *[(0, None)] * slacks.shape[1]]
    found = _linprog(costs, rows, relations, shares, limits)
    if found is None:
        raise ArithmeticError("bounds that may give way were found to contradict")
    missing = slacks @ found.x[system.num_groups :]
    # A slack of rounding size is none; otherwise every bound would count as one that gave way.
    return np.where(np.abs(missing) < 10 * _NOISE, 0.0, missing)


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    """A programme over blocks.

    Attributes:
      system: The bounds.
      group: Group of each block, int64 [num_blocks].
      held: Amount in each block, as a share of the budget, float64 [num_blocks].
      value: Value of each block per unit of the budget, float64 [num_blocks].
      missing: As `_missing`.
    """

    system: System
    group: Array
    held: Array
    value: Array
    missing: Array

    def optimum(self) -> tuple[Array, Array]:
        """Solves the programme.

        Returns:
          The amount taken from each block, float64 [num_blocks]; and the dual of each bound, float64 [num_bounds].
        """
        if not len(self.group):
            return self.held, np.zeros(len(self.system.relations))
        found = self._solved(self.system.shares)
        if found is None:
            raise ArithmeticError(
                "the programme of the shares was not solved: its bounds contradict"
            )
        is_even = np.array(self.system.relations) == "="
        prices = np.zeros(len(is_even))
        # The first even row is the budget.
        prices[~is_even], prices[is_even] = -found.ineqlin.marginals, found.eqlin.marginals[1:]
        # Duals of rounding size belong to bounds that do not bind.
        prices[np.abs(prices) < _NOISE] = 0.0
        return np.asarray(found.x), prices * self._unit

    def sides(self, bound: int, slope: float, given: Array) -> tuple[float, float]:
        """Solves the programme with a bound tightened and with it loosened.

        Args:
          bound: Its number.
          slope: Its dual, for a bound that can be shifted to neither side.
          given: The optimum, float64 [num_blocks].

        Returns:
          The value lost per unit by which it is tightened, and that gained per unit by which it is loosened. If it can
          be shifted to one side only, the price of this side stands for both, but a bound that rules nothing out gains
          nothing by being loosened.
        """
        prices = []
        relation, share = self.system.relations[bound], self.system.shares[bound]
        for towards in (1, -1):
            shares = self.system.shares.copy()
            shift = -_STEP if relation == "<=" else _STEP
            shares[bound] = min(max(share + towards * shift, 0.0), 1.0)
            step = abs(float(shares[bound] - share))
            if step == 0 and towards < 0 and relation != "=":
                prices.append(0.0)
                continue
            can_shift = step > 0 and not self.missing[1 + bound]
            try:
                found = self._solved(shares) if can_shift and len(given) else None
            except ArithmeticError:
                # The selection itself is solved; a price alone is no reason to lose it.
                found = None
            if found is None:
                prices.append(np.nan)
                continue
            lost = towards * float(((given - found.x) * self.value).sum()) / step
            prices.append(0.0 if abs(lost) < _NOISE / step * self._unit else lost)
        known = [price for price in prices if not np.isnan(price)] or [slope]
        return known[0], known[-1]

    @property
    def _unit(self) -> float:
        """The unit of costs, which scales them to [-1, 0], so that `_NOISE` means the same for any unit of value."""
        return float(np.ptp(self.value)) or 1.0

    def _solved(self, shares: Array) -> Any:
        relations, missing = np.array(["=", *self.system.relations]), self.missing
        wanted = np.append(1.0, shares) - missing
        # A bound that gave way is at its limit, so it gets a tolerance against floating-point error.
        gives_way = missing != 0
        wanted += _NOISE * ((relations == "<=").astype(float) - (relations == ">=")) * gives_way
        costs = (self.value.min() - self.value) / self._unit
        limits = [(0, limit) for limit in self.held]
        rows = self.system.rows()[:, self.group].tocsr()
        return _linprog(costs, rows, relations, wanted, limits)


def _linprog(costs: Array, rows: Any, relations: Array, shares: Array, limits: Any) -> Any:
    """Solves a linear programme; None if it has no solution."""
    is_even = relations == "="
    signs = np.where(relations == ">=", -1.0, 1.0)[~is_even]
    found = scipy.optimize.linprog(
        costs,
        A_ub=scipy.sparse.diags(signs) @ rows[~is_even] if len(signs) else None,
        b_ub=signs * shares[~is_even] if len(signs) else None,
        A_eq=rows[is_even],
        b_eq=shares[is_even],
        bounds=limits,
        # The dual simplex method ends at a vertex, where few bands are partly taken; an interior point would cut many.
        method="highs-ds",
    )
    if found.status == _INFEASIBLE:
        return None
    if found.status != 0:
        raise ArithmeticError(f"the programme of the shares was not solved: {found.message}")
    return found
