"""Beam counters: what each step of a run reads, shuffles and stores, and how many pieces it finds finished.

Importing this module plugs Beam's counters into `beam_quad.artifacts.traffic`. Every worker does it, because the steps that
it runs are defined beside it.
"""

from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from beam_quad.artifacts import traffic

_NAMESPACE = "beam_quad"


def count(name: str, amount: int) -> None:
    """Counts for the step whose thread this is; outside a step, as in a launcher, nothing is counted."""
    Metrics.counter(_NAMESPACE, name).inc(amount)


def total(result: PipelineResult, kind: traffic.Kind) -> int:
    """Adds up what all steps of a finished job counted; what was done twice counts twice where the runner says so."""
    metrics = MetricsFilter().with_namespace(_NAMESPACE).with_name(kind)
    counters = result.metrics().query(metrics)["counters"]
    return sum(counter.result for counter in counters)


traffic.report_to(count)
