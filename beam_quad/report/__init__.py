"""Reports made from manifests, without Beam, models or files."""

from beam_quad.report.data import (
    Arm,
    Cluster,
    Example,
    Notice,
    Outcome,
    PlannedStage,
    QueryGroup,
    ReportData,
    Round,
    ScoredSample,
    Scores,
    StageTiming,
    Target,
)
from beam_quad.report.report import render

__all__ = [
    "Arm",
    "Cluster",
    "Example",
    "Notice",
    "Outcome",
    "PlannedStage",
    "QueryGroup",
    "ReportData",
    "Round",
    "ScoredSample",
    "Scores",
    "StageTiming",
    "Target",
    "render",
]
