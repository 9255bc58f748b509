"""Runs a stage with a model inside RunInference."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from beam_quad.gradients.proxy import require_device
from beam_quad.stages.base import Counted, Finished, ModelStage, do_element
from beam_quad.transforms.elements import Sentinel


class LazyModel:
    """The model of a stage, loaded by the first piece that needs it.

    At most `ModelStage.pieces_at_once` threads use it at a time.
    """

    def __init__(self, stage: ModelStage) -> None:
        self._stage = stage
        self._turns = threading.Semaphore(stage.pieces_at_once)

    def do(self, element: Any) -> Counted | None:
        """Returns the statistic of an element. The sentinel and finished pieces need no model."""
        if isinstance(element, Sentinel):
            return None
        if isinstance(element, Finished):
            return do_element(self._stage, element)
        with self._turns:
            return do_element(self._stage, element)


# One bundle uses the model, which takes one piece at a time, while the other reads its input.
_BUNDLES_PER_ACCELERATOR = "2"


class PieceHandler(ModelHandler[Any, Any, LazyModel]):
    """Runs a `ModelStage` inside RunInference: one element is one piece, and one batch is one element.

    The data decide the pieces, so the result does not depend on how a runner batches elements. The model is shared
    through the process-wide cache, by `ModelStage.model_key`.

    Args:
      stage: The stage.
      has_accelerator: Whether the step asks for an accelerator. The pieces of a worker then share it.

    Raises:
      DeviceError: In `load_model`, if the device is missing. There is no fallback to another device.
    """

    def __init__(self, stage: ModelStage, has_accelerator: bool = False) -> None:
        super().__init__()
        self._stage = stage
        self._has_accelerator = has_accelerator

    def load_model(self) -> LazyModel:
        """Checks the device; the model itself is loaded by the first piece."""
        # A resumed step whose pieces are all finished then never loads the model.
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
        """Counts elements, because the size of a reference says nothing about its piece."""
        return len(batch)

    def get_resource_hints(self) -> dict[str, str]:
        """Returns the hints of the inference step alone, because Beam adds this hint up over nested steps."""
        if not self._has_accelerator:
            return {}
        return {"max_active_bundles_per_worker": _BUNDLES_PER_ACCELERATOR}

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of RunInference's own counters."""
        return "beam_quad"

    def batch_elements_kwargs(self) -> dict[str, int]:
        """Sets the batch size to one element."""
        # The clock would form batches of several elements; a piece forms its own batches, from its data.
        return {"min_batch_size": 1, "max_batch_size": 1}
