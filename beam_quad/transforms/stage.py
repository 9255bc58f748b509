"""Runs a stage on Beam's workers, between two links of the chain.

token -> List -> Reshuffle -> Do -> Sum -> Finish -> token
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import PCollection

from beam_quad.additive import PairwiseSum
from beam_quad.artifacts import clock, traffic
from beam_quad.stages.base import (
    Finished,
    GroupedStage,
    ModelStage,
    RegroupedStage,
    Stage,
    do_element,
    finish,
    list_work,
)
from beam_quad.transforms import counters
from beam_quad.transforms.elements import Sentinel, Token
from beam_quad.transforms.inference import PieceHandler


class SumCombineFn(beam.CombineFn):
    """Sums statistics that know how to add themselves (see `beam_quad.additive`).

    None is the sum of none: how many clusters a statistic counts is known on the workers only.
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
    """Runs a stage between two links of the chain.

    Takes the one token of the stage before and emits one token, after every piece is done and the artifact is
    written. A finished piece is read; if the whole artifact is stored already, nothing is listed.

    Args:
      stage: What the stage does.
      accelerator: Resource hint of the step with the model, where the stage has one that is not for the CPU, such as
        `type:nvidia-l4;count:1;install-nvidia-driver`; the other steps run on plain machines.
    """

    stage: Stage
    accelerator: str | None = None

    def expand(self, tokens: PCollection[Token]) -> PCollection[Token]:
        return (
            tokens
            | "List" >> beam.FlatMap(_list_work, self.stage)
            # The list is one element's output: without a shuffle its pieces would all run on the worker that made it.
            | "Spread" >> beam.Reshuffle()
            | "Do" >> self._hinted()
            | "Sum" >> self._sum()
            | "Finish" >> beam.Map(_finish, self.stage)
        )

    def _sum(self) -> beam.CombineGlobally:
        combine = beam.CombineGlobally(SumCombineFn()).without_defaults()
        number = self.stage.num_adders
        return combine.with_fanout(number) if number > 1 else combine

    def _hinted(self) -> "DoPieces":
        step = DoPieces(self.stage)
        if self.accelerator is None or not isinstance(self.stage, ModelStage):
            return step
        if self.stage.device == "cpu":
            return step
        return step.with_resource_hints(accelerator=self.accelerator)


@dataclasses.dataclass
class DoPieces(beam.PTransform):
    """Takes the pieces of a stage, done or finished, and emits one statistic each or, by groups, one a group.

    Args:
      stage: What is done with each piece.
    """

    stage: Stage

    def expand(self, pieces: PCollection[Any]) -> PCollection[Any]:
        stage = self.stage
        if isinstance(stage, ModelStage):
            handler = PieceHandler(stage, has_accelerator=bool(self.get_resource_hints()))
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
    """Starts a chain of stages: emits the token of the plan, which the launcher has written."""
    first = Token("Plan", plan_path)
    return pipeline | beam.Impulse() | "Start" >> beam.Map(_replace, first)


def _replace(_: bytes, token: Token) -> Token:
    return token


def _list_work(token: Token, stage: Stage) -> Iterator[Any]:
    yield Sentinel()
    for element in list_work(stage):
        if isinstance(element, Finished):
            counters.count(f"{stage.name}_reused", 1)
        yield element


def _do(element: Any, stage: Stage) -> Any:
    return None if isinstance(element, Sentinel) else do_element(stage, element)


_NO_GROUP = -1


def _draw(element: Any, stage: GroupedStage) -> Iterator[tuple[int, bytes]]:
    if isinstance(element, Sentinel):
        yield _NO_GROUP, b""
        return
    with clock.noting_failure(stage.clock):
        for group, part in stage.draw(element):
            traffic.count("bytes_shuffled", len(part))
            yield group, part


def _put_together(element: tuple[int, Iterable[bytes]], stage: GroupedStage) -> Any:
    group, parts = element
    with clock.noting_failure(stage.clock):
        return None if group == _NO_GROUP else stage.put_together(group, parts)


def _regroup(
    element: tuple[int, Iterable[bytes]], stage: RegroupedStage
) -> Iterator[tuple[int, bytes]]:
    group, parts = element
    with clock.noting_failure(stage.clock):
        yield from [(_NO_GROUP, b"")] if group == _NO_GROUP else stage.regroup(group, parts)


def _finish(total: Any, stage: Stage) -> Token:
    finish(stage, total)
    return Token(stage.name, stage.artifact)
