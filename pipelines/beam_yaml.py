"""A selection as a transform of Beam YAML: `templates/beam_yaml/select.yaml` shows how."""

from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.pvalue import PBegin, PCollection

from beam_quad.artifacts import files
from beam_quad.errors import UsageError
from beam_quad.records import ROW_FORMATS
from beam_quad.transforms.selected import Document, ReadSelection
from pipelines import (
    command_line,
    distillation_options,
    influence_distillation,
    launch,
    options,
    quad,
)
from pipelines.columns import corpus_columns

_NAME = "SelectByInfluence"
_METHODS: dict[str, tuple[Any, Any, Any]] = {
    "select": (options.QuadOptions, options.parse, quad.program),
    "distill": (
        distillation_options.DistillationOptions,
        distillation_options.parse,
        influence_distillation.program,
    ),
}


class SelectByInfluence(beam.PTransform):
    """Selects documents by influence, writes them to `output` as `beam-quad` does, and emits them.

    Takes the beginning of a pipeline and emits a `Document` for each selected document, once the output is complete. Invalid
    flags, inputs or models are refused when the pipeline is built.

    Args:
      method: `select` or `distill`.
      **flags: Flags of that command by name, such as `budget_tokens`; see `pipelines/README.md`.
    """

    def __init__(self, method: str = "select", **flags: Any) -> None:
        super().__init__()
        if method not in _METHODS:
            raise UsageError(f"{_NAME}: method must be one of {', '.join(_METHODS)}, got {method}")
        self._method, self._flags = method, flags

    def expand(self, begin: PBegin) -> PCollection[Document]:
        """Checks flags, inputs and models, and adds the stages."""
        kind, parse, program = _METHODS[self._method]
        own = command_line.arguments(kind, self._flags, _NAME)
        about_runner = _about_runner(begin.pipeline.options)
        parsed, rest = parse([*own, *about_runner])
        if others := [argument for argument in rest if argument not in about_runner]:
            raise UsageError(f"{_NAME}: {others[0]} is Beam's; pass it to the pipeline")
        if parsed.plan:
            raise UsageError(f"{_NAME}: plan is for the command; leave it out")
        if parsed.output_format not in ROW_FORMATS:
            raise UsageError(
                f"{_NAME} emits the rows of parts, which {parsed.output_format} has none of; pass output_format: "
                + " or ".join(ROW_FORMATS)
            )
        tokens = launch.add_to(begin.pipeline, parsed, program())
        output = files.absolute(parsed.output)
        return tokens | "ReadSelection" >> ReadSelection(output, corpus_columns(parsed))


def _about_runner(given: PipelineOptions) -> list[str]:
    """Returns the runner's options, because the number of threads of a model follows from them."""
    direct = given.view_as(DirectOptions)
    values = {
        "runner": given.view_as(StandardOptions).runner,
        "direct_running_mode": direct.direct_running_mode,
        "direct_num_workers": direct.direct_num_workers,
    }
    return [f"--{name}={value}" for name, value in values.items() if value is not None]
