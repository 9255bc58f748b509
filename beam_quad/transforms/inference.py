"""A stage with a model, inside RunInference."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from beam_quad.gradients.proxy import require_device
from beam_quad.stages.base import Finished, ModelStage, do_element
from beam_quad.transforms.elements import Sentinel


class LazyModel:
    """The model of a stage, loaded by the first piece that needs it and used by few threads at a time.

    How many is up to the stage (`ModelStage.pieces_at_once`).
    """

    def __init__(self, stage: ModelStage) -> None:
        self._stage = stage
        self._turns = threading.Semaphore(stage.pieces_at_once)

    def do(self, element: Any) -> Any:
        """Returns the statistic of an element; the sentinel and a finished piece need no model."""
        if isinstance(element, Sentinel):
            return None
        if isinstance(element, Finished):
            return do_element(self._stage, element)
        with self._turns:
            return do_element(self._stage, element)


# One has the model, which takes one piece at a time, while another reads what it will need.
_BUNDLES_PER_ACCELERATOR = "2"


class PieceHandler(ModelHandler[Any, Any, LazyModel]):
    """Runs a `ModelStage` inside RunInference: one element is one piece, and one batch is one element.

    Pieces are formed by the data and not by the clock, so that the result does not depend on how a runner batches.
    The model is shared through the process-wide cache, by `ModelStage.model_key`.

    Args:
      stage: What is done.
      has_accelerator: Whether the step asks for an accelerator, which the pieces of a worker then share.

    Raises:
      DeviceError: In `load_model`, where the device is not there. There is no fallback to another one.
    """

    def __init__(self, stage: ModelStage, has_accelerator: bool = False) -> None:
        super().__init__()
        self._stage = stage
        self._has_accelerator = has_accelerator

    def load_model(self) -> LazyModel:
        """Checks the device; the model itself waits for the first piece."""
        require_device(self._stage.device)
        return LazyModel(self._stage)

    def run_inference(
        self,
        batch: Sequence[Any],
        model: LazyModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[Any]:
        """Yields the statistic of each element of the batch."""
        for element in batch:
            yield model.do(element)

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Counts elements: they are references, whose bytes say nothing."""
        return len(batch)

    def get_resource_hints(self) -> dict[str, str]:
        """Hints of the step that has the model, and of that step alone: Beam adds this one up over nested steps."""
        if not self._has_accelerator:
            return {}
        return {"max_active_bundles_per_worker": _BUNDLES_PER_ACCELERATOR}

    def get_metrics_namespace(self) -> str:
        """The namespace of RunInference's own counters."""
        return "beam_quad"

    def batch_elements_kwargs(self) -> dict[str, int]:
        """One element a batch."""
        return {"min_batch_size": 1, "max_batch_size": 1}
