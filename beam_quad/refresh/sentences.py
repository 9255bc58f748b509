"""The results of a refresh in sentences, one line each."""

from beam_quad.intervals import Interval
from beam_quad.refresh.drift import Drift, Finding
from beam_quad.refresh.scorecard import Scorecard, Worth

_WHAT = {
    "far": "documents far from every cluster",
    "influence": "the influence of documents within clusters",
    "influence_by_cluster": "the influence of single clusters",
    "lengths": "the lengths of documents",
    "rejected": "rejected rows",
}


def drift_sentences(drift: Drift, *, grows_clusters: bool) -> list[str]:
    """Reports what drifted and what cannot be tested, or that nothing drifted.

    Args:
      drift: The findings.
      grows_clusters: Whether the run opens new clusters; if not, a sentence suggests it when it would help.
    """
    findings = drift.findings.values()
    alarms = [_alarm(drift, each, grows_clusters) for each in findings if each.is_alarm]
    few = [_WHAT[finding.name] for finding in findings if finding.p_value is None]
    told = [_WHAT[finding.name] for finding in findings if finding.p_value is not None]
    if told and not alarms:
        alarms = [
            f"no drift: {_listed(told)} differ by no more than chance, or too little to matter"
        ]
    if few:
        alarms.append(f"too few documents to tell whether there is a drift in {_listed(few)}")
    return alarms


def scorecard_sentences(card: Scorecard) -> list[str]:
    """Compares the worth of a token between new and old files, and counts the clusters that changed."""
    influence = _compared(card.influence, "the mean influence of a token")
    selected = _compared(card.selected, "the share of selected tokens", is_share=True)
    sentences = [each for each in (influence, selected) if each is not None]
    changes = [
        f"{len(found):,} {word}"
        for found, word in ((card.grew, "grew"), (card.shrank, "shrank"), (card.moved, "moved"))
        if found
    ]
    if changes:
        sentences.append(f"of {len(card.clusters):,} clusters {_listed(changes)}")
    return sentences


def _alarm(drift: Drift, finding: Finding, grows_clusters: bool) -> str:
    old, new = finding.old or 0.0, finding.new or 0.0
    if finding.name == "far":
        sentence = f"{_percent(new)} of the new documents are farther from the middle of the nearest cluster than 99 % of its old ones"
        if not grows_clusters:
            sentence += ": pass --grow_clusters to open clusters for them"
    elif finding.name == "influence":
        sentence = f"new documents have {abs(new):.2f} standard deviations {'more' if new > 0 else 'less'} influence than the old ones of their cluster"
    elif finding.name == "influence_by_cluster":
        sentence = f"clusters' new documents differ in influence from their old ones, each its own way, by {new:.2f} standard deviations"
    elif finding.name == "lengths":
        sentence = f"the lengths of documents have changed: new ones have {new:,.0f} tokens on average, old ones {old:,.0f}"
    else:
        sentence = f"{_percent(new)} of the new rows are rejected, {_percent(old)} of the old ones"
        if drift.reasons:
            reason, (before, after) = max(
                drift.reasons.items(), key=lambda item: abs(item[1][1] - item[1][0])
            )
            sentence += f", most of the change for {reason!r} ({_percent(after)}, {_percent(before)} of the old)"
    if not finding.is_by_shards:
        sentence += " (there are too few files to know how much files differ without drift)"
    return sentence


def _compared(worth: Worth, what: str, *, is_share: bool = False) -> str | None:
    old, new, ratio = worth.old, worth.new, worth.ratio
    if old is None or new is None:
        return None
    values = [_percent(v.value) if is_share else f"{v.value:.4g}" for v in (new, old)]
    sentence = f"{what} is {values[0]} in new files and {values[1]} in old ones"
    # A share cannot be negative, so an interval that reaches below 0 means that too little is known of the ratio.
    if ratio is None or (is_share and ratio.low <= 0):
        return sentence
    return f"{sentence}: {_times(ratio)} as much"


def _times(ratio: Interval) -> str:
    return f"{ratio.value:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
