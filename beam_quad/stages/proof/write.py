"""The last stage of a proof: its result, written beside the selection's manifest."""

import dataclasses
from typing import Annotated, Any

from beam_quad import identity
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import write_json
from beam_quad.errors import UsageError
from beam_quad.intervals import Interval
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.proof import Trial, by_group, judge, price
from beam_quad.report.proof import render_proof
from beam_quad.stages.base import Stage
from beam_quad.stages.proof.measured import GENERAL, HELD_OUT
from beam_quad.stages.proof.train import TrainOn

PROOF = "proof.json"
_METHOD = (
    "gain: fall of the loss, nats per token; lead: gain of the selection less that of the contender; worth: gain of the "
    "selection over that of the contender, null if the contender gains nothing beyond the noise or the selection nothing at all; all [value, low, high] with intervals of 95 %: Student's t "
    "over paired texts and a block design of contenders and seeds, Fieller's for ratios"
)


@dataclasses.dataclass(frozen=True)
class WriteProof(Stage):
    """Judges the trainings and writes `proof.html` and `proof.json` to the folder of the selection.

    Args:
      trained: The trainings.
      selection: Name of the contender under test.
      output: Folder of the selection.
      weights: Relative weight of each query group's held-out loss, > 0.
      configuration: Fingerprint of the proof, computed by the launcher.
    """

    kind = "proof"
    version = 2
    artifact_name = PROOF

    trained: TrainOn
    selection: str
    output: str
    weights: tuple[float, ...]
    configuration: Annotated[str, identity.NotCounted("it is made of the trainings")]

    @property
    def root(self) -> str:
        return self.trained.root

    @property
    def folder(self) -> str:
        """Folder of the selection."""
        return self.output

    @property
    def clock(self) -> str:
        return files.join(self.output, "_run", "prove")

    def work(self, sizes: Sizes) -> Work:
        return Work("write", alone_s=rates.REPORT_S)

    def pieces(self) -> tuple[()]:
        return ()

    def do(self, piece: Any, model: Any) -> None:
        """Does nothing; there are no pieces."""

    def finish(self, total: None) -> None:
        trained, measured = self.trained, self.trained.measured
        trials = self._trials()
        held_out, general = trials[HELD_OUT], trials.get(GENERAL)
        is_from_scratch = trained.start.is_from_scratch
        verdict = judge(held_out, self.selection, measured.num_tokens(), is_from_scratch)
        proof = {
            "configuration": self.configuration,
            "verdict": verdict.sentence,
            "is_worth_it": verdict.is_worth_it,
            "price": None if general is None else price(general, self.selection),
            "selection": self.selection,
            "model": trained.proxy.fingerprint,
            "is_from_scratch": is_from_scratch,
            "recipe": trained.told_recipe(),
            "num_seeds": held_out.num_seeds,
            "measured": measured.counts(),
            "method": _METHOD,
            **{name: self._results(trial) for name, trial in trials.items()},
            **self._by_group(held_out),
        }
        # The artifact is written last: it marks the stage as finished.
        files.write(files.join(self.output, "proof.html"), render_proof(proof).encode())
        write_json(self.artifact, proof)

    def _trials(self) -> dict[str, Trial]:
        trained, measured = self.trained, self.trained.measured
        groups = measured.groups()
        for query, tokens in zip(
            measured.held_out, groups @ trained.predicted(HELD_OUT), strict=True
        ):
            if not tokens:
                whose, flag = "", "--heldout"
                if len(self.weights) > 1:
                    whose, flag = f" of {query.name}", "--heldout_group"
                raise UsageError(
                    f"no held-out text{whose} has the 2 tokens that a loss needs; pass {flag} with others"
                )
        trials = {HELD_OUT: trained.trial(HELD_OUT, groups, self.weights)}
        # The general mix is empty if the contenders train on the whole corpus.
        if trained.predicted(GENERAL).any():
            trials[GENERAL] = trained.trial(GENERAL)
        return trials

    def _by_group(self, held_out: Trial) -> dict[str, Any]:
        """Returns the results by query group; empty if there is only one, which has the overall results."""
        if len(self.weights) == 1:
            return {}
        names = [query.name for query in self.trained.measured.held_out]
        trials = {name: held_out.only(number) for number, name in enumerate(names)}
        counts = self.trained.measured.group_counts()
        groups = {
            name: {"weight": weight, "measured": counts[name]} | self._results(trials[name])
            for name, weight in zip(names, self.weights, strict=True)
        }
        return {"by_group": by_group(trials, self.selection), "groups": groups}

    def _results(self, trial: Trial) -> dict[str, Any]:
        return {
            "before": trial.initial,
            "contenders": {name: self._result(trial, name) for name in trial.after},
        }

    def _result(self, trial: Trial, name: str) -> dict[str, Any]:
        return {
            "loss": trial.loss(name),
            "losses": trial.losses(name),
            "gain": _numbers(trial.gain(name)),
        } | ({} if name == self.selection else self._against(trial, name))

    def _against(self, trial: Trial, name: str) -> dict[str, Any]:
        return {
            "lead": _numbers(trial.lead(self.selection, name)),
            "worth": _numbers(trial.worth(self.selection, name)),
        }


def _numbers(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(dataclasses.astuple(interval))
