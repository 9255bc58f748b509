"""Flags of the Influence Distillation pipeline."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from beam_quad.errors import UsageError
from beam_quad.records import Budget
from pipelines import parsing, run_options
from pipelines.run_options import RunOptions


@dataclasses.dataclass(frozen=True)
class DistillationOptions(RunOptions):
    """The flags of `pipelines.influence_distillation`, checked one by one; see `parser` for what each means."""

    budget_tokens: int | None
    budget_examples: int | None
    num_landmarks: int | None
    sketch_dim: int
    sketch_entries: int
    ridge: float
    optimizer_state: str | None
    order: int
    eta: float
    interaction_landmarks: int
    interaction_texts: int
    shortlist: int

    @property
    def budget(self) -> Budget:
        """How much is selected."""
        if self.budget_tokens is not None:
            return Budget(self.budget_tokens)
        return Budget(self.budget_examples or 0, "examples")

    def check(self) -> None:
        """Refuses what cannot be; see `RunOptions.check`."""
        super().check()
        if (self.budget_tokens is None) == (self.budget_examples is None):
            raise UsageError(
                "pass one of --budget_tokens and --budget_examples, and not both: how much to select"
            )
        for name in (
            "budget_tokens",
            "budget_examples",
            "num_landmarks",
            "sketch_dim",
            "sketch_entries",
            "interaction_landmarks",
            "interaction_texts",
            "shortlist",
        ):
            self.check_at_least_one(name)
        if not self.query:
            raise UsageError(
                "Influence Distillation needs --query or --query_group: the texts to become good at"
            )
        if self.optimizer_state is not None and self.curvature != "identity":
            raise UsageError(
                "--optimizer_state takes the place of a curvature; pass --curvature=identity with it"
            )
        if self.proxy_model is None:
            raise UsageError("Influence Distillation needs --proxy_model: a folder or hub id")
        if not 0 < self.ridge < float("inf"):
            raise UsageError(f"--ridge must be positive, got {self.ridge}")
        if not 0 <= self.eta < float("inf"):
            raise UsageError(f"--eta must be at least 0, got {self.eta}")
        if self.order == 2 and (self.share or self.share_by):
            raise UsageError(
                "--order=2 solves for weights without bounds; leave --share out, or pass --order=1"
            )
        if self.order == 2:
            self._check_second_order()

    def _check_second_order(self) -> None:
        if self.base is not None and not self.reselect:
            raise UsageError(
                "--order=2 solves for a selection as a whole; pass --reselect with --base, or --order=1"
            )
        if self.dtype != "float32":
            raise UsageError(
                f"second derivatives drown in {self.dtype}; pass --dtype=float32, or --order=1"
            )
        if self.optimizer_state is not None:
            raise UsageError(
                "--optimizer_state, Adam's form of influence, is of the first order here; "
                "leave it out, or pass --order=1"
            )


def parse(argv: Sequence[str]) -> tuple[DistillationOptions, list[str]]:
    """Parses a command line.

    Args:
      argv: Arguments without the program's name.

    Returns:
      Our options, and the arguments for Beam, each of which Beam or its job server knows.

    Raises:
      UsageError: If a flag is unknown, lacks its value, or has one that cannot be.
    """
    values, rest = parsing.parse(parser(), argv)
    options = DistillationOptions(**values)
    options.check()
    return options, rest


def parser() -> argparse.ArgumentParser:
    """Makes the parser of `pipelines.influence_distillation`; every default is the recommended one."""
    result = parsing.Parser(
        prog="beam-quad distill",
        description="Selects pre-training data by influence that is propagated from landmarks (Influence Distillation).",
        epilog="Any other option goes to Beam, such as --runner; see the README.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run_options.add_data(result)
    run_options.add_models(result, embedder="minilm", curvature="ekfac")
    _add_selection(result)
    run_options.add_refresh(result)
    run_options.add_running(result)
    return result


def _add_selection(result: argparse.ArgumentParser) -> None:
    group = result.add_argument_group("selection")
    add = group.add_argument
    add(
        "--budget_tokens",
        type=parsing.total,
        help="tokens to select in all, such as 30B or 1e9; +50M: so many more than --base",
    )
    add(
        "--budget_examples",
        type=parsing.total,
        help="examples to select, such as 2M, in place of tokens",
    )
    add(
        "--num_landmarks",
        type=parsing.count,
        help="examples whose influence is computed exactly; default an eighth of all, 512 to 4096",
    )
    add("--sketch_dim", type=parsing.count, default=131_072, help="length of a compressed gradient")
    add("--sketch_entries", type=parsing.count, default=1 << 22, help="entries kept of a gradient")
    add("--ridge", type=float, default=0.01, help="of the regression that propagates influence")
    add(
        "--optimizer_state",
        help="safetensors of Adam's state by parameter name; examples' gradients become its steps",
    )
    run_options.add_near_duplicates(group, "drop")
    run_options.add_reserve(group)
    _add_second_order(result.add_argument_group("second order"))


def _add_second_order(group: Any) -> None:
    add = group.add_argument
    add(
        "--order",
        type=int,
        choices=(1, 2),
        default=1,
        help="2: examples that teach the same are worth less together",
    )
    add(
        "--eta",
        type=float,
        default=0.3,
        help="of --order=2: step for which is weighed, over the best one of the first order; more spreads wider",
    )
    add(
        "--interaction_landmarks",
        type=int,
        default=256,
        help="of --order=2: landmarks whose interactions are computed exactly",
    )
    add(
        "--interaction_texts",
        type=int,
        default=32,
        help="of --order=2: texts of each target that make up its curvature",
    )
    add(
        "--shortlist",
        type=int,
        default=4,
        help="of --order=2: examples that are weighed, over what the first order selects",
    )
