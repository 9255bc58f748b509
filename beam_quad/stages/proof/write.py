"""The last stage of a proof: what it comes to, beside the selection's manifest."""

import dataclasses
from typing import Annotated, Any

from beam_quad import identity
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.errors import UsageError
from beam_quad.intervals import Interval
from beam_quad.proof import Trial, judge, price
from beam_quad.report.proof import render_proof
from beam_quad.stages.base import Stage
from beam_quad.stages.proof.measured import GENERAL, HELD_OUT
from beam_quad.stages.proof.train import TrainOn

PROOF = "proof.json"
_METHOD = (
    "gain: fall of the loss, nats per token; lead: gain of the selection less that of the contender; worth: the one over "
    "the other, null where the contender gains nothing beyond the noise, or the selection nothing; all [value, low, high] with intervals of 95 %: Student's t "
    "over paired texts and a block design of contenders and seeds, Fieller's for ratios"
)


@dataclasses.dataclass(frozen=True)
class WriteProof(Stage):
    """Judges the trainings, and writes `proof.html` and `proof.json` into the folder of the selection.

    Args:
      trained: The trainings.
      selection: Name of the contender that is to be proved.
      output: The folder of the selection.
      configuration: Fingerprint of the proof, as the launcher knows it.
    """

    kind = "proof"
    artifact_name = PROOF

    trained: TrainOn
    selection: str
    output: str
    configuration: Annotated[str, identity.NotCounted("it is made of the trainings")]

    @property
    def root(self) -> str:
        return self.trained.root

    @property
    def folder(self) -> str:
        """The folder of the selection."""
        return self.output

    @property
    def clock(self) -> str:
        return files.join(self.output, "_run", "prove")

    def pieces(self) -> tuple[()]:
        return ()

    def do(self, piece: Any, model: Any) -> None:
        """Nothing: there are no pieces."""

    def finish(self, total: None) -> None:
        trained, measured = self.trained, self.trained.measured
        trials = {name: trained.trial(name) for name in measured.counts()}
        held_out = trials[HELD_OUT]
        if held_out is None:
            raise UsageError(
                "no held-out text has the 2 tokens that a loss needs; pass --heldout with others"
            )
        verdict = judge(held_out, self.selection, measured.num_tokens())
        general = trials[GENERAL]
        first = read_json(trained.paths(1)[0])
        proof = {
            "configuration": self.configuration,
            "verdict": verdict.sentence,
            "is_worth_it": verdict.is_worth_it,
            "price": None if general is None else price(general, self.selection),
            "selection": self.selection,
            "model": trained.proxy.fingerprint,
            "recipe": first["recipe"] | {"num_steps": first["num_steps"]},
            "num_seeds": held_out.num_seeds,
            "measured": measured.counts(),
            "method": _METHOD,
            **{name: self._results(trial) for name, trial in trials.items() if trial},
        }
        files.write(files.join(self.output, "proof.html"), render_proof(proof).encode())
        write_json(self.artifact, proof)

    def _results(self, trial: Trial) -> dict[str, Any]:
        return {
            "before": trial.before.mean,
            "contenders": {name: self._result(trial, name) for name in trial.after},
        }

    def _result(self, trial: Trial, name: str) -> dict[str, Any]:
        return {
            "loss": trial.loss(name),
            "losses": [run.mean for run in trial.after[name]],
            "gain": _numbers(trial.gain(name)),
        } | ({} if name == self.selection else self._against(trial, name))

    def _against(self, trial: Trial, name: str) -> dict[str, Any]:
        return {
            "lead": _numbers(trial.lead(self.selection, name)),
            "worth": _numbers(trial.worth(self.selection, name)),
        }


def _numbers(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(dataclasses.astuple(interval))
