"""Flags of the Influence Distillation pipeline."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

from beam_quad.errors import UsageError
from beam_quad.records import Budget
from pipelines import flags, parsing, run_options
from pipelines.flags import flag
from pipelines.run_options import RunOptions

_selection = functools.partial(flag, group="selection")
_second_order = functools.partial(flag, group="second order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationOptions(RunOptions):
    """The flags of `pipelines.influence_distillation`, checked one by one; every default is the recommended one."""

    COMMAND = "distill"
    SUMMARY = "Selects pre-training data by influence that is propagated from landmarks (Influence Distillation)."
    GROUPS = ("data", "models", "selection", "second order", "refresh", "running")

    budget_tokens: int | None = _selection(
        "tokens to select in all, such as 30B or 1e9; +50M: 50M more than --base",
        is_common=True,
        reads=parsing.total,
        at_least=1,
    )
    budget_examples: int | None = _selection(
        "examples to select, such as 2M, in place of tokens",
        is_common=True,
        reads=parsing.total,
        at_least=1,
    )
    num_landmarks: int | None = _selection(
        "examples whose influence is computed exactly; default an eighth of all, 512 to 4096",
        reads=parsing.count,
        at_least=1,
        more="They are a uniform sample.",
    )
    sketch_dim: int = _selection(
        "with --curvature=identity: length of a landmark's compressed gradient",
        131_072,
        reads=parsing.count,
        at_least=1,
    )
    sketch_entries: int = _selection(
        "with --curvature=identity: entries kept of a landmark's gradient",
        1 << 22,
        reads=parsing.count,
        at_least=1,
    )
    ridge: float = _selection(
        "ridge of the regression that propagates influence", 0.01, is_positive=True
    )
    optimizer_state: str | None = _selection(
        "safetensors of Adam's state by parameter name; examples' gradients become its steps",
        pattern=flags.URL,
        more="It takes the place of a curvature: pass `--curvature=identity` with it.",
    )
    order: Literal[1, 2] = _second_order(
        "2: examples that teach the same are worth less together",
        1,
        more="Interactions are exact Gauss-Newton products of a few landmarks, and weights are found for at most 20,000 documents. "
        "Most of the cost is the products: one for each landmark, text (`--interaction_texts`) and target.",
    )
    eta: float = _second_order(
        "with --order=2: step for which weights are found, relative to the best one of the first order; more spreads wider",
        0.3,
        at_least=0,
    )
    interaction_landmarks: int = _second_order(
        "with --order=2: landmarks whose interactions are computed exactly", 256, at_least=1
    )
    interaction_texts: int = _second_order(
        "with --order=2: texts of each target that make up its curvature", 32, at_least=1
    )
    shortlist: int = _second_order(
        "with --order=2: examples that are weighed, as a multiple of those that the first order selects",
        4,
        at_least=1,
    )

    @property
    def budget(self) -> Budget:
        """How much is selected."""
        if self.budget_tokens is not None:
            return Budget(self.budget_tokens)
        return Budget(self.budget_examples or 0, "examples")

    def described(self, num_documents: int) -> str:
        """As `RunOptions.described`."""
        # Imported late, because an invalid flag should fail at once.
        from beam_quad.distillation import default_num_landmarks

        number = min(self.num_landmarks or default_num_landmarks(num_documents), num_documents)
        words = f"influence distillation, {self.budget.amount:,} {self.budget.unit}, {number:,} landmarks"
        if number < (self.num_landmarks or 0):
            words += f" (all there are, of {self.num_landmarks:,} asked for)"
        return words

    def check(self) -> None:
        """Refuses invalid options; see `RunOptions.check`."""
        super().check()
        if (self.budget_tokens is None) == (self.budget_examples is None):
            raise UsageError(
                "pass one of --budget_tokens and --budget_examples, and not both: how much to select"
            )
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
    """Parses and checks a command line; see `run_options.parse`."""
    values, rest = run_options.parse(DistillationOptions, argv)
    options = DistillationOptions(**values)
    options.check()
    return options, rest
