"""Judgements of a run: made once, and shown in the same words by the launcher, `status` and the page.

A finished run stores its judgements in the manifest, under `verdict` and `notices`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_quad.records import PLAIN_QUERY
from beam_quad.report.comparison import Contrast, compare, compare_target
from beam_quad.report.data import Notice, ReportData, ScoredSample, Target
from beam_quad.report.formatting import (
    clean,
    compact,
    correlation,
    count,
    decimal,
    percent,
    ratio,
)
from beam_quad.selection import weighted_mean

# The correlation r of two halves' scores is the share of a half's variance that another half would confirm. Below 0.5 a
# half reflects the choice of its texts more than what they have in common, and over a third of the variance under the
# whole set is chance, since 2r / (1 + r) is below 2/3.
LEAST_HALVES_AGREEMENT = 0.5
# Measured on 1,600 documents with 8 domains as targets, plain and under EK-FAC, 100 to 800 landmarks, and hashed words with
# varying noise. Below 0.2 the best 2 to 10 % by prediction retain an eighth (median) of the gain of the best by exact
# influence; from 0.3 to 0.4 they retain half. Uninformative embeddings give 0. A rare, distinct target may lose little.
_LEAST_HELD_OUT_AGREEMENT = 0.2
# A larger share of unused texts, in files of one origin, is more than a few stray rows.
_MOST_UNUSED = 0.1
# Below half of the possible gain, most of the useful variation is within clusters, not between them.
_LEAST_REACH = 0.5
# A notice is a line of a terminal, so it names only a few.
_NAMED_FILES, _NAMED_TARGETS, _NAME_CHARACTERS = 5, 4, 20
_REASONS_LEFT = {
    "shard_gone": "its file is gone",
    "shard_changed": "its file changed",
    "not_among_the_best": "no longer among the best",
    "duplicate_id": "its id stands at an earlier row now",
    "excluded": "excluded",
    "contaminated": "it holds a text that no selection may hold",
}
_CENTERS = {
    "empty_dropped": "clusters that no example is nearest to, which were dropped",
    "resplit": "clusters that were too large and were split again by k-means",
    "hash_split": "clusters that were still too large and are split by hash",
    "opened": "clusters that were opened for new documents far from all others",
}


def judge(manifest: Mapping[str, Any]) -> tuple[Notice, ...]:
    """Judges a run by its manifest; warnings come first, then notes."""
    return (
        *(Notice(line) for line in _warnings(manifest) if line),
        *(Notice(line, "note") for line in _notes(manifest) if line),
    )


def about(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a manifest's judgements: the verdict, then the notices."""
    # Manifests of earlier versions have no judgements.
    if words := manifest.get("verdict"):
        yield words
    for notice in manifest.get("notices", ()):
        yield f"{notice['level']}: {notice['message']}"


def _warnings(manifest: Mapping[str, Any]) -> Iterator[str | None]:
    yield manifest["shortfall"]
    if number := manifest["counts"]["bad_files"]:
        yield f"input files that were unreadable and are left out: {count(number)}; see rejected/"
    if (excluded := manifest.get("excluded")) and not excluded["rows"]:
        yield f"no row has one of the {count(excluded['ids'])} ids of --exclude; check the list"
    if number := manifest.get("refresh", {}).get("added_harmful", 0):
        yield (
            f"{count(number)} of the documents that were added have an influence below 0: the new files and what was "
            "scored before hold no better ones; pass --reselect to choose among all documents"
        )
    for name, group in manifest.get("query", {}).items():
        if is_poor(**group):
            yield texts_used(name, **group)
    for name, target in manifest.get("targets", {}).items():
        # Targets whose whole part was scored exactly do not depend on predictions.
        if target["predicted"]:
            yield poor_propagation(name, target["held_out_rank_correlation"])
        yield poor_agreement(name, target["halves"], "landmarks")
    for name, agreement in manifest.get("halves", {}).items():
        yield poor_agreement(name, agreement)


def _notes(manifest: Mapping[str, Any]) -> Iterator[str | None]:
    yield from about_refresh(manifest)
    if (leaks := manifest.get("contaminated", {})).get("rows"):
        yield f"documents rejected for a text that no selection may hold: {_by_set(leaks)}"
    if (paraphrases := manifest.get("paraphrases", {})).get("rows"):
        yield f"selected documents that may paraphrase a text that no selection may hold: {_by_set(paraphrases)}"
    if (long := manifest["passed_over"])["documents"]:
        yield (
            f"documents passed over for their length: {count(long['documents'])} of more than {count(long['longer_than'])} tokens, "
            f"{count(long['tokens'])} in all; each is more than a tenth of the budget, and longer than a typical document"
        )
    if number := manifest["near_duplicates"]["documents"]:
        yield f"near-duplicates of documents that rank higher, left out: {count(number)}; rejected/ names them"
    for name, group in manifest.get("query", {}).items():
        if group["unused"] and not is_poor(**group):
            yield texts_used(name, **group)
    yield from about_columns(manifest["columns"])
    yield _few_landmarks(manifest)
    for name, words in _CENTERS.items():
        if number := manifest.get("centers", {}).get(name):
            yield f"{words}: {count(number)}"
    yield _clustering(manifest.get("influence", {}).get("intra_cluster_correlation"))
    if (missed := manifest.get("unreachable", {"blocks": 0}))["blocks"]:
        yield (
            f"{count(missed['blocks'])} blocks ({count(missed['tokens'])} tokens) had no text set aside and could not be "
            "scored; raise --reserve_examples"
        )


def verdict(data: ReportData) -> str:
    """States the size of the selection, whether it meets the budget, and whether it beats a random draw."""
    counts, tokens = data.manifest["counts"], data.manifest["tokens"]
    words = (
        f"{count(counts['selected'])} of {count(counts['read'])} examples were selected, "
        f"{compact(tokens['selected'])} tokens"
    )
    if budget_met(data.manifest):
        words += ": the budget is met." if tokens["budget"] else "."
    else:
        words += f": only {percent(ratio(tokens['selected'], tokens['budget']))} of the budget."
    against = ""
    if (comparison := compare(data)) is not None:
        against = _against_random(comparison)
    elif data.targets:
        against = _targets_against_random(data.targets)
    elif data.scores is not None:
        against = _against_scored(data.scores.selected, data.scores.scored)
    return f"{words} {against}".rstrip()


def budget_met(manifest: Mapping[str, Any]) -> bool:
    """Tells whether the selection fills the budget to within one mean example, the precision of the last cut."""
    tokens = manifest["tokens"]
    if not tokens["budget"]:
        return True
    # Whole examples are selected, so the last one may not fit: a gap of less than an example is none.
    example = tokens["selected"] / max(manifest["counts"]["selected"], 1)
    return bool(tokens["selected"] + example >= tokens["budget"])


def _against_random(comparison: Contrast) -> str:
    gain, spread = comparison.gain, comparison.spread
    # The interval of the difference includes 0: claiming a gain would be claiming luck.
    if abs(gain.mean) <= gain.half_width:
        return "Their mean influence cannot be told apart from that of a random draw."
    direction = "higher" if gain.mean > 0 else "lower"
    in_spreads = f" by {decimal(abs(gain.mean) / spread, 2)} standard deviations" if spread else ""
    return (
        f"Their mean influence is {direction} than that of a random draw{in_spreads} "
        f"({decimal(comparison.selection.mean)} against {decimal(comparison.random.mean)})."
    )


def _against_scored(selected: ScoredSample, scored: ScoredSample) -> str:
    """Compares the selection with all scored examples, because without a pilot no examples were scored at random."""
    means = [weighted_mean(each.influence, each.tokens) for each in (selected, scored)]
    if None in means:
        return ""
    return f"Their mean influence is {decimal(means[0])}, that of all that was scored {decimal(means[1])}."


def _targets_against_random(targets: Sequence[Target]) -> str:
    contrasts = [compare_target(target) for target in targets]
    if len(targets) == 1:
        if contrasts[0] is not None:
            return _against_random(contrasts[0])
        return (
            "Too few landmarks stand for them to tell their influence from that of a random draw."
        )
    named = list(zip(targets, contrasts, strict=True))
    above = [c for _, c in named if c is not None and c.is_above]
    if not above:
        return (
            f"For none of the {count(len(targets))} targets is the mean influence of what was taken for it shown to be "
            "above that of a random draw."
        )
    others = [clean(t.name, _NAME_CHARACTERS) for t, c in named if c is None or not c.is_above]
    number = count(len(above)) if others else "each"
    gains = sorted(c.in_deviations or 0.0 for c in above)
    between = " to ".join(dict.fromkeys(decimal(g, 2) for g in (gains[0], gains[-1])))
    more = len(others) - _NAMED_TARGETS
    listed = ", ".join(others[:_NAMED_TARGETS]) + (f" and {count(more)} more" if more > 0 else "")
    not_for = f" (not for {listed})" if others else ""
    return (
        f"For {number} of the {count(len(targets))} targets{not_for}, the mean influence of what was taken for it is higher than "
        f"that of a random draw, by {between} standard deviations."
    )


def texts_used(name: str, used: int, unused: Mapping[str, int]) -> str:
    """States how many texts of a query group are used, and how many are `unused` for each reason."""
    number = sum(unused.values())
    texts = "query texts" if name == PLAIN_QUERY else f"texts of {_group(name)}"
    words = f"{count(used)} of {count(used + number)} {texts} are used"
    reasons = ", ".join(f"{count(n)} {reason}" for reason, n in sorted(unused.items()) if n)
    return f"{words}, {count(number)} cannot be: {reasons}" if number else words


def _group(name: str) -> str:
    # A query set without groups has one that nobody has named.
    return "the query set" if name == PLAIN_QUERY else f"query group {name}"


def is_poor(used: int, unused: Mapping[str, int]) -> bool:
    """Tells whether over a tenth of a query group's texts are unused, which suggests wrong files."""
    number = sum(unused.values())
    return number > _MOST_UNUSED * (used + number)


def reliability(agreement: float) -> float:
    """Estimates the agreement of the whole set with another of its size from the agreement r of its halves.

    Returns:
      2r / (1 + r); 0 if r is negative.

    References:
      Spearman, Correlation Calculated from Faulty Data, 1910; Brown, Some Experimental Results, 1910.
    """
    return max(0.0, 2 * agreement / (1 + agreement)) if agreement > -1 else 0.0


def poor_agreement(name: str, agreement: float | None, sample: str = "pilot") -> str | None:
    """Suggests a remedy for a group whose halves rank examples differently; None if they agree.

    Args:
      name: The group's name.
      agreement: Rank correlation of the scores under its halves; None if unknown.
      sample: The examples scored under both halves, "pilot" or "landmarks".
    """
    if agreement is None or not agreement < LEAST_HALVES_AGREEMENT:
        return None
    part = "mostly" if reliability(agreement) < 0.5 else "in large part"
    return (
        f"the halves of {_group(name)} rank the {sample} differently (rank correlation {correlation(agreement)}): scores depend "
        f"{part} on which texts happen to be in it; pass more query texts, or split unlike ones into groups (--query_group)"
    )


def poor_propagation(name: str, agreement: float | None) -> str | None:
    """Suggests a remedy for a target whose influence is predicted poorly; None if prediction is good enough.

    Args:
      name: The target's name.
      agreement: Rank correlation of the landmarks' exact influence with the prediction from the others; None (or not finite)
        if one of them does not vary.
    """
    if agreement is None or not math.isfinite(agreement):
        return (
            f"influence on {_group(name)}, exact or predicted, is the same for every landmark: what was taken for it is "
            "chance; draw more landmarks (--num_landmarks), or pass another --embedder"
        )
    if agreement >= _LEAST_HELD_OUT_AGREEMENT:
        return None
    return (
        f"influence on {_group(name)} is predicted poorly (held-out rank correlation {correlation(agreement)}), so that "
        "much of what exact influence would gain may be missed; draw more landmarks (--num_landmarks), or pass another "
        "--embedder"
    )


def about_refresh(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines on the changes relative to the base selection; none without a base."""
    found = manifest.get("refresh")
    if found is None:
        return
    left = [
        f"{count(own['documents'])} left ({left_because(reason)})"
        for reason, own in found["left"].items()
    ]
    words = [
        f"{count(found['kept']['documents'])} kept",
        f"{count(found['added']['documents'])} added",
        *(left or ["none left"]),
    ]
    yield f"since the last run: {', '.join(words)}; {about_splits(found['splits'])}"
    yield from found.get("words", ())


def left_because(reason: str) -> str:
    """States why a document has left a selection."""
    return _REASONS_LEFT.get(reason, reason)


def about_splits(splits: Mapping[str, int]) -> str:
    """States what changed in the input since the last run; `splits` as in `data.Refresh.splits`."""
    number = splits["new"]
    words = [
        f"{count(number)} of {count(number + splits['kept'])} pieces of the input {'is' if number == 1 else 'are'} new"
    ]
    words += [
        f"{count(splits[name])} of the last run {'is' if splits[name] == 1 else 'are'} {name}"
        for name in ("changed", "gone")
        if splits[name]
    ]
    return ", ".join(words)


def about_columns(columns: Mapping[str, Any]) -> Iterator[str]:
    """States, one per line, which columns are carried in another form, and which files have no usable rows.

    Args:
      columns: `json_text` (reasons by column), `escaped`, `renamed` (new names by column), `files_without_usable_rows`.
    """
    for name, why in columns["json_text"].items():
        yield f"column {name!r} is carried as JSON text: {why}"
    for name in columns["escaped"]:
        yield f"column {name!r} holds text that is not UTF-8, which is written as escapes"
    for name, new in columns["renamed"].items():
        yield f"column {name!r} of the input is carried as {new!r}"
    unusable = columns["files_without_usable_rows"]
    # A wrong --text_column leaves every file without a usable row, so only the first few are named.
    for shard in unusable[:_NAMED_FILES]:
        yield f"{shard}: no row can be used; see rejected/ for the reasons, and check --text_column"
    if (more := len(unusable) - _NAMED_FILES) > 0:
        yield f"{count(more)} more files have no row that can be used; manifest.json lists them"


def _by_set(found: Mapping[str, Any]) -> str:
    """States the rows of a part of the manifest, and how many belong to each set."""
    sets = ", ".join(f"{count(number)} of {name}" for name, number in found["rows_by_set"].items())
    return f"{count(found['rows'])} ({sets})"


def _few_landmarks(manifest: Mapping[str, Any]) -> str | None:
    """Warns of too few landmarks; only Influence Distillation has landmarks."""
    asked, found = manifest["config"].get("num_landmarks"), manifest.get("landmarks")
    if not asked or not found or asked <= (drawn := found["scored"] + found["unscorable"]):
        return None
    return f"all {count(drawn)} usable examples are landmarks: the corpus has no {count(asked)} (--num_landmarks)"


def _clustering(share: float | None) -> str | None:
    """States whether clusters separate examples by influence; None if influence does not vary.

    For selections of equal size from a normal population, the gain of the best by a criterion is proportional to the
    criterion's standard deviation. For means of clusters, this is the square root of their share of the variance.
    """
    if share is None:
        return None
    reach = math.sqrt(max(share, 0.0))
    words = (
        f"clusters explain {share:.0%} of the variance of the pilot's influence: choosing among them can give about "
        f"{reach:.0%} of what choosing among documents, each scored, would gain over a random draw"
    )
    if reach >= _LEAST_REACH:
        return f"clustering helps here: {words}"
    return f"clustering helps little here: {words}; --acceptance=shortlist looks inside clusters"
