"""Why an example that the page shows was selected or not, in a sentence with the numbers that decided it."""

import math

from beam_quad.report.data import Example, Outcome, ReportData
from beam_quad.report.formatting import decimal

# Reasons of the decisions in words.
_WHY_NOT = {
    "share_full": "its share of the budget is full",
    "too_long": "it is too long for the budget",
    "contaminated": "it holds a text that no selection may hold",
    "left_out_before": "the last run left it out",
    "not_shortlisted": "its n-grams put it below the end of the shortlist",
}
# In a refresh, what the last run selected fills the budget before all else.
_BELOW_CUT_OF_REFRESH = "the budget ends before it, as the last run's documents keep their places"


def why(data: ReportData, example: Example) -> str:
    """States why an example was selected or not, without a capital or a full stop; empty if that is unknown."""
    outcome = data.outcomes.get(str(example.key))
    if outcome is None:
        return ""
    if outcome.reason is None:
        return f"selected: {_why_selected(data, example, outcome)}"
    return f"not selected: {_why_not(data, example, outcome, outcome.reason)}"


def _why_selected(data: ReportData, example: Example, outcome: Outcome) -> str:
    # What the last run had selected stays whatever its rank is now.
    if outcome.is_kept:
        return "the last run had selected it"
    # Only what the acceptance kept was accepted: within shares, and where the budget is filled up, ranks decide.
    if outcome.is_accepted:
        return _why_accepted(data, example, outcome)
    if outcome.target is not None and (least := _least_taken(data, outcome.target)) is not None:
        return f"for {outcome.target}; the lowest influence of a landmark selected for it is {decimal(least)}"
    if outcome.is_accepted is False:
        worth = _worth(example, outcome.worth)
        return f"it was not accepted, but fills the budget up with {worth}{_filled_to(outcome)}"
    return _against_cut(data, example, outcome, "above")


def _why_accepted(data: ReportData, example: Example, outcome: Outcome) -> str:
    if _acceptance(data) == "cluster":
        return f"its cluster was accepted: its mean influence is {_of_cluster(data, example)}"
    accepted = f"round {outcome.round} accepted"
    if _acceptance(data) == "instance":
        return f"{accepted} it for its own influence{_threshold(data, outcome.round, example.influence)}"
    words = "of which the scored documents have a mean influence of"
    if _has_prior(data):
        words = "judged with the cluster's earlier scores at"
    threshold = _threshold(data, outcome.round, outcome.block_influence)
    return f"{accepted} its block, {words} {decimal(outcome.block_influence)}{threshold}"


def _why_not(data: ReportData, example: Example, outcome: Outcome, reason: str) -> str:
    if reason == "near_duplicate":
        return f"{outcome.twin or 'another document'} is nearly the same, and ranks higher"
    if reason == "block_not_accepted" and _acceptance(data) == "cluster":
        if any(arm.accepted for arm in data.arms or () if arm.cluster_id == example.cluster_id):
            return f"its cluster was accepted only in part, because the budget ends within it{_filled_to(outcome)}"
        mean = _of_cluster(data, example)
        return f"its cluster was not accepted: its mean influence is {mean}{_filled_to(outcome)}"
    if reason == "block_not_accepted":
        # With a prior, blocks wait for better ones, and are judged at the end.
        pulled = None if _has_prior(data) else outcome.round
        return (
            "its block was not accepted: its scored documents have a mean influence of "
            f"{decimal(example.block_influence)}{_threshold(data, pulled)}{_filled_to(outcome)}"
        )
    if reason == "below_cut" and data.targets:
        least = [(t.name, _least_taken(data, t.name)) for t in data.targets]
        words = ", ".join(f"{decimal(own)} for {name}" for name, own in least if own is not None)
        return f"it ranks below where the budget ends; the lowest influence of a selected landmark is {words}"
    if reason == "below_cut" and "refresh" in data.manifest and not _is_set(data, "reselect"):
        return _BELOW_CUT_OF_REFRESH
    if reason == "below_cut":
        return _against_cut(data, example, outcome, "below")
    if reason == "share_full" and outcome.cut is not None:
        unit = "a joint rank" if _acceptance(data) == "shortlist" else "an influence"
        ends = f"down to {unit} of {decimal(outcome.cut)}, and its own is {decimal(outcome.rank)}"
        return f"{_WHY_NOT[reason]}, {ends}"
    return _WHY_NOT.get(reason, reason.replace("_", " "))


def _acceptance(data: ReportData) -> object:
    config = data.manifest["config"]
    # Baselines have the option too, and do not use it.
    return config.get("acceptance") if config.get("policy") == "quad" else None


def _against_cut(data: ReportData, example: Example, outcome: Outcome, side: str) -> str:
    """States on which side of the budget's end an example ranks, with both ranks if they are known."""
    # Shares divide the budget among groups of documents, each of which ends at a rank of its own.
    end = (
        f"{side} where the budget ends{' within its shares' if data.manifest.get('shares') else ''}"
    )
    if outcome.cut is not None:
        end += f", at {decimal(outcome.cut)}"
    if _acceptance(data) == "shortlist":
        own = "" if outcome.rank is None else f" {decimal(outcome.rank)},"
        return f"its joint rank, by influence and by n-grams, is{own} {end}"
    worth = outcome.rank if outcome.worth is None else outcome.worth
    return f"it ranks {end}" if worth is None else f"with {_worth(example, worth)} it ranks {end}"


def _filled_to(outcome: Outcome) -> str:
    """States where the budget ends that other examples fill up; empty if only what was accepted is selected."""
    if outcome.cut is None:
        return ""
    return f"; filled up by rank, the budget ends at {decimal(outcome.cut)}"


def _is_set(data: ReportData, option: str) -> bool:
    return bool(data.manifest["config"].get(option))


def _has_prior(data: ReportData) -> bool:
    """Tells whether scores of earlier runs count when blocks are judged."""
    return "refresh" in data.manifest and not _is_set(data, "refit")


def _worth(example: Example, worth: float | None) -> str:
    is_own = worth is not None and math.isclose(worth, example.influence, rel_tol=1e-6)
    return f"an {'' if is_own else 'estimated '}influence of {decimal(worth)}"


def _of_cluster(data: ReportData, example: Example) -> str:
    means = {arm.cluster_id: arm.mean_influence for arm in data.arms or ()}
    return decimal(None if example.cluster_id is None else means.get(example.cluster_id))


def _threshold(data: ReportData, number: int | None, accepted: float | None = None) -> str:
    """States the threshold of a round; empty if it had none, or a prior let what was `accepted` wait until the end."""
    taus = [own.tau for own in data.rounds or () if own.number == number and own.tau is not None]
    if not taus or not math.isfinite(taus[0]):
        return ""
    if accepted is not None and accepted < taus[0] and _has_prior(data):
        return ""
    return f", and the threshold was {decimal(taus[0])}"


def _least_taken(data: ReportData, name: str) -> float | None:
    """Returns the lowest influence on a target of a landmark selected for it; None if there is none."""
    for target in data.targets or ():
        if target.name == name and target.taken is not None and target.taken.any():
            return float(target.influence[target.taken].min())
    return None
