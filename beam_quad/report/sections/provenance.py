"""Where it came from and how it was made: sources, timings, configuration, versions."""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence

from beam_quad.report.data import PlannedStage, ReportData, StageTiming
from beam_quad.report.formatting import count, ratio
from beam_quad.report.pages import Section

MAX_SOURCES = 40
_LEAST_DOLLARS = 0.1


def sources(data: ReportData) -> Section | None:
    """Shows each source's share of the corpus and of the selection; None if there are none."""
    if not data.sources:
        return None
    items = sorted(
        data.sources.items(), key=lambda item: (-item[1].selected.tokens, -item[1].tokens, item[0])
    )
    shown, rest = items[:MAX_SOURCES], items[MAX_SOURCES:]
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
    """Stages of one line of the plan, or one stage without a plan; sums are None if nothing is known."""

    name: str
    stages: Sequence[StageTiming]

    @property
    def planned(self) -> Sequence[PlannedStage]:
        return [stage.planned for stage in self.stages if stage.planned is not None]

    @property
    def taken(self) -> float | None:
        # A refresh reads artifacts of its base, whose times belong to another run.
        own = [stage.seconds for stage in self.stages if not stage.is_earlier]
        return math.fsum(own) if own else None

    @property
    def seconds(self) -> float | None:
        return self._sum("seconds")

    @property
    def planned_documents(self) -> float | None:
        # Stages that count documents pass over others each time; the rest pass over the same ones again.
        counting = [
            s.planned.documents for s in self.stages if s.planned and s.documents is not None
        ]
        if counting:
            return math.fsum(counting)
        return max((planned.documents for planned in self.planned), default=None)

    @property
    def documents(self) -> int | None:
        counted = [stage.documents for stage in self.stages if stage.documents is not None]
        return sum(counted) if counted else None

    @property
    def flops(self) -> float | None:
        return self._sum("flops")

    @property
    def device_hours(self) -> float | None:
        return self._sum("device_hours")

    @property
    def dollars(self) -> float | None:
        return None if any(p.dollars is None for p in self.planned) else self._sum("dollars")

    def _sum(self, field: str) -> float | None:
        values = [getattr(planned, field) for planned in self.planned]
        return math.fsum(values) if values else None


def timings(data: ReportData) -> Section | None:
    """Shows each line of the plan beside what the run counted and took; None if nothing is known."""
    if not data.timings:
        return None
    stages: dict[str, list[StageTiming]] = {}
    for stage in data.timings:
        stages.setdefault(stage.planned.line if stage.planned else stage.name, []).append(stage)
    rows = [_Line(name, own) for name, own in stages.items()]
    total = _Line("All", data.timings)
    view = {
        "rows": rows,
        "total": total,
        "longest": max(max(row.taken or 0.0, row.seconds or 0.0) for row in rows) or 1.0,
        "has_devices": bool(total.device_hours),
        # Of a small run on one machine cents would say nothing.
        "has_prices": (total.dollars or 0.0) >= _LEAST_DOLLARS,
    }
    lead = "From the start of a stage's first piece to the end of its last."
    if total.planned:
        lead += " The plan was made before the run started, for the machines that --plan names; the upper bar is the plan."
    if any(stage.is_earlier for stage in data.timings):
        lead += " What an earlier run made took this run no time."
    return Section("timing", "Plan and time", view, lead)


def configuration(data: ReportData) -> Section | None:
    """Shows options and versions; None if neither is given."""
    named = (("Options", data.configuration), ("Versions", data.versions))
    lists = [(title, values) for title, values in named if values]
    return Section("configuration", "Configuration", {"lists": lists}) if lists else None
