"""What a run reads of its input, shuffles and stores: Beam counters, at the step that does it."""

from typing import Literal

from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

Kind = Literal["bytes_read", "bytes_shuffled", "bytes_stored"]
_NAMESPACE = "beam_quad"


def count(kind: Kind, num_bytes: int) -> None:
    """Counts bytes for the step whose thread this is; elsewhere, as in a launcher, nothing is counted.

    Args:
      kind: `bytes_read` of the input's files, compressed; `bytes_shuffled` between workers, as packed; `bytes_stored`
        as artifacts or output.
      num_bytes: How many.
    """
    Metrics.counter(_NAMESPACE, kind).inc(num_bytes)


def total(result: PipelineResult, kind: Kind) -> int:
    """Adds up what all steps of a finished job counted; what was done twice counts twice where the runner says so."""
    metrics = MetricsFilter().with_namespace(_NAMESPACE).with_name(kind)
    counters = result.metrics().query(metrics)["counters"]
    return sum(counter.result for counter in counters)
