"""Where it came from and how it was made: sources, timings, configuration, versions."""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence

from beam_quad.report.data import ReportData, StageTiming
from beam_quad.report.formatting import count, ratio
from beam_quad.report.pages import Section

MAX_SOURCES = 40
_LEAST_DOLLARS = 0.1
_KINDS = {"bytes_read": "Input read", "bytes_shuffled": "Shuffled", "bytes_stored": "Stored"}


def sources(data: ReportData) -> Section | None:
    """Shows each source's share of the corpus and of the selection; None if there are none."""
    if not data.sources:
        return None
    items = sorted(
        data.sources.items(), key=lambda item: (-item[1].selected.tokens, -item[1].tokens, item[0])
    )
    shown, rest = items[:MAX_SOURCES], items[MAX_SOURCES:]
    # The rest is summed up, so that the column still adds up to the whole.
    if rest:
        shown.append(
            (f"{count(len(rest))} others", functools.reduce(operator.add, (own for _, own in rest)))
        )
    whole = functools.reduce(operator.add, data.sources.values())
    rows = [
        (
            name,
            own,
            ratio(own.tokens, whole.tokens) or 0.0,
            ratio(own.selected.tokens, whole.selected.tokens) or 0.0,
        )
        for name, own in shown
    ]
    view = {"rows": rows, "largest": max(max(pair) for _, _, *pair in rows) or 1.0}
    lead = "Shares are of tokens; the upper bar is the corpus, the lower one the selection."
    return Section("sources", "Sources", view, lead)


@dataclasses.dataclass(frozen=True)
class _Line:
    """Stages of one line of the plan, or one stage without a plan; a sum is None if nothing is known."""

    name: str
    stages: Sequence[StageTiming]

    @property
    def own(self) -> Sequence[StageTiming]:
        # A refresh reads artifacts of its base, whose times and bytes belong to another run.
        return [stage for stage in self.stages if not stage.is_earlier]

    @property
    def taken(self) -> float | None:
        return _total([stage.seconds for stage in self.own])

    @property
    def planned_documents(self) -> float | None:
        # Stages that count documents pass over others each time; the rest pass over the same ones again.
        planned = [stage for stage in self.stages if stage.planned]
        counting = [s.planned["documents"] for s in planned if s.documents is not None]
        if counting:
            return math.fsum(counting)
        return max((stage.planned["documents"] for stage in planned), default=None)

    @property
    def documents(self) -> float | None:
        return _total([stage.documents for stage in self.own if stage.documents is not None])

    def planned(self, field: str) -> float | None:
        """Adds up a field of the plan; None if a stage's is not known."""
        values = [stage.planned[field] for stage in self.stages if stage.planned]
        return None if None in values else _total(values)

    def counted(self, kind: str) -> float | None:
        """Adds up bytes of a kind that this run counted."""
        return _total([stage.traffic[kind] for stage in self.own if kind in stage.traffic])


def _total(values: Sequence[float]) -> float | None:
    """Adds up; None if there is nothing to add, which is not a count of 0."""
    return math.fsum(values) if values else None


def timings(data: ReportData) -> Section | None:
    """Shows each line of the plan beside what the run counted and took; None if nothing is known."""
    if not data.timings:
        return None
    stages: dict[str, list[StageTiming]] = {}
    for stage in data.timings:
        stages.setdefault(stage.planned.get("line", stage.name), []).append(stage)
    rows = [_Line(name, own) for name, own in stages.items()]
    total = _Line("All", data.timings)
    is_planned = any(stage.planned for stage in data.timings)
    view = {
        "rows": rows,
        "total": total,
        "longest": max(max(row.taken or 0.0, row.planned("seconds") or 0.0) for row in rows) or 1.0,
        "is_planned": is_planned,
        "has_devices": bool(total.planned("device_hours")),
        # Of a small run on one machine cents would say nothing.
        "has_prices": (total.planned("dollars") or 0.0) >= _LEAST_DOLLARS,
        "kinds": [(kind, name) for kind, name in _KINDS.items() if total.counted(kind)],
    }
    lead = "Times are from the start of a stage's first piece to the end of its last."
    if is_planned:
        lead += " The plan was made before the run started, for the machines that --plan names; the upper bar is the plan."
    if any(stage.is_earlier for stage in data.timings):
        lead += " What an earlier run made takes this run nothing, and is not in its plan."
    return Section("timing", "Plan and time", view, lead)


def configuration(data: ReportData) -> Section | None:
    """Shows options and versions; None if neither is given."""
    found = data.manifest
    named = (("Options", found["config"]), ("Versions", found["versions"] | found["fingerprints"]))
    lists = [(title, values) for title, values in named if values]
    return Section("configuration", "Configuration", {"lists": lists}) if lists else None
