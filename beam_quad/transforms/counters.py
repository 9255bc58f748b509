"""Beam counters of what each step reads, shuffles and stores, and of the pieces it finds finished.

Importing this module connects Beam's counters to `beam_quad.artifacts.traffic`. Every worker imports it, because the
module of the steps does.
"""

from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from beam_quad.artifacts import traffic

_NAMESPACE = "beam_quad"


def count(name: str, amount: int) -> None:
    """Adds to a counter of the step that runs in this thread. Outside a step, as in a launcher, nothing is counted."""
    Metrics.counter(_NAMESPACE, name).inc(amount)


def total(result: PipelineResult, kind: traffic.Kind) -> int:
    """Returns a finished job's sum of one kind of counter over all steps; retried work counts twice on some runners."""
    metrics = MetricsFilter().with_namespace(_NAMESPACE).with_name(kind)
    counters = result.metrics().query(metrics)["counters"]
    return sum(counter.result for counter in counters)


traffic.report_to(count)
