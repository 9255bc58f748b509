"""Runs a stage on Beam's workers, as one link of the chain.

token -> List -> Reshuffle -> Do -> Sum -> Finish -> token
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import PCollection

from beam_quad.additive import PairwiseSum
from beam_quad.stages.base import (
    NO_GROUP,
    Counted,
    Finished,
    GroupedStage,
    ModelStage,
    RegroupedStage,
    Stage,
    do_element,
    draw_parts,
    finish,
    list_work,
    put_parts_together,
    regroup_parts,
)
from beam_quad.transforms import counters
from beam_quad.transforms.elements import Sentinel, Token
from beam_quad.transforms.inference import PieceHandler


class SumCombineFn(beam.CombineFn):
    """Sums additive statistics (see `beam_quad.additive`).

    The sum of no statistics is None: a zero would need its length, such as a number of clusters, which only workers know.
    """

    def create_accumulator(self) -> PairwiseSum[Any]:
        return PairwiseSum()

    def add_input(self, accumulator: PairwiseSum[Any], statistic: Any) -> PairwiseSum[Any]:
        accumulator.add(statistic)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[PairwiseSum[Any]]) -> PairwiseSum[Any]:
        merged = PairwiseSum[Any]()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def compact(self, accumulator: PairwiseSum[Any]) -> PairwiseSum[Any]:
        return accumulator.compact()

    def extract_output(self, accumulator: PairwiseSum[Any]) -> Any:
        return accumulator.total()


@dataclasses.dataclass
class RunStage(beam.PTransform):
    """Runs a stage as one link of the chain.

    Takes the token of the previous stage and emits one token, after all pieces are done and the artifact is written.
    Finished pieces are read. If the artifact exists already, nothing is listed.

    Args:
      stage: The stage.
      accelerator: Resource hint of the step with the model, such as `type:nvidia-l4;count:1;install-nvidia-driver`; used
        only if the stage has a model that is not on the CPU. All other steps run on plain machines.
    """

    stage: Stage
    accelerator: str | None = None

    def expand(self, tokens: PCollection[Token]) -> PCollection[Token]:
        return (
            tokens
            | "List" >> beam.FlatMap(_list_work, self.stage)
            # Breaks the fusion with "List": its pieces are the output of one element, so without a shuffle they would all
            # run on one worker.
            | "Spread" >> beam.Reshuffle()
            | "Do" >> self._hinted()
            | "Sum" >> self._sum()
            | "Finish" >> beam.Map(_finish, self.stage)
        )

    def _sum(self) -> beam.CombineGlobally:
        # The sentinel gives every stage at least one statistic, so no default for an empty input is needed.
        combine = beam.CombineGlobally(SumCombineFn()).without_defaults()
        number = self.stage.num_adders
        return combine.with_fanout(number) if number > 1 else combine

    def _hinted(self) -> "DoPieces":
        # Only this step is hinted. A hint breaks fusion on both sides, and every machine of a hinted step has the
        # accelerator.
        step = DoPieces(self.stage)
        if self.accelerator is None or not isinstance(self.stage, ModelStage):
            return step
        if self.stage.device == "cpu":
            return step
        return step.with_resource_hints(accelerator=self.accelerator)


@dataclasses.dataclass
class DoPieces(beam.PTransform):
    """Does or reads the pieces of a stage, and emits a `Counted` statistic per piece or, for a `GroupedStage`, per group.

    Args:
      stage: The stage.
    """

    stage: Stage

    def expand(self, pieces: PCollection[Any]) -> PCollection[Any]:
        stage = self.stage
        if isinstance(stage, ModelStage):
            handler = PieceHandler(stage, has_accelerator=bool(self.get_resource_hints()))
            # Beam's own identifier is a random UUID, which would give the same chain another graph in every run.
            return pieces | "Infer" >> RunInference(
                handler, model_identifier=f"{stage.name}/{stage.model_key}"
            )
        if not isinstance(stage, GroupedStage):
            return pieces | "Piece" >> beam.Map(_do, stage)
        groups = pieces | "Draw" >> beam.FlatMap(_draw, stage) | "ByGroup" >> beam.GroupByKey()
        if isinstance(stage, RegroupedStage):
            groups = (
                groups
                | "Regroup" >> beam.FlatMap(_regroup, stage)
                | "ByNewGroup" >> beam.GroupByKey()
            )
        return groups | "PutTogether" >> beam.Map(_put_together, stage)


def start(pipeline: beam.Pipeline, plan_path: str) -> PCollection[Token]:
    """Starts a chain of stages: emits the token of the plan, which the launcher wrote."""
    first = Token("Plan", plan_path)
    return pipeline | beam.Impulse() | "Start" >> beam.Map(_replace, first)


def _replace(_: bytes, token: Token) -> Token:
    return token


def _list_work(token: Token, stage: Stage) -> Iterator[Any]:
    # The token is only waited for: it exists once the previous artifact is written.
    yield Sentinel()
    for element in list_work(stage):
        if isinstance(element, Finished):
            counters.count(f"{stage.name}_reused", 1)
        yield element


def _do(element: Any, stage: Stage) -> Counted | None:
    return None if isinstance(element, Sentinel) else do_element(stage, element)


def _draw(element: Any, stage: GroupedStage) -> Iterator[tuple[int, bytes]]:
    # The sentinel makes a group of its own, so even a stage without pieces has one statistic.
    if isinstance(element, Sentinel):
        return iter([(NO_GROUP, b"{}")])
    return draw_parts(stage, element)


def _regroup(
    element: tuple[int, Iterable[bytes]], stage: RegroupedStage
) -> Iterator[tuple[int, bytes]]:
    return regroup_parts(stage, *element)


def _put_together(element: tuple[int, Iterable[bytes]], stage: GroupedStage) -> Counted:
    return put_parts_together(stage, *element)


def _finish(total: Counted | None, stage: Stage) -> Token:
    finish(stage, total)
    return Token(stage.name, stage.artifact)
