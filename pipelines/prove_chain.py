"""Builds the chain of a proof's stages from flags."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from beam_quad import identity
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json
from beam_quad.corpus.seen import small_version
from beam_quad.corpus.splits import InputPlan, plan_input
from beam_quad.errors import UsageError
from beam_quad.gradients import untrained
from beam_quad.gradients.proxy import (
    ProxySpec,
    content_fingerprint,
    load_skeleton,
    load_tokenizer,
    require_tokens,
)
from beam_quad.proof import divide, fingerprints
from beam_quad.records import ROW_FORMATS, Budget
from beam_quad.stages.proof.draw import DrawFromCorpus, DrawFromParts, Draws, DrawStage
from beam_quad.stages.proof.measured import DrawMeasured
from beam_quad.stages.proof.start import Configuration, Start, TrainedModel
from beam_quad.stages.proof.train import TrainOn
from beam_quad.stages.proof.write import WriteProof
from beam_quad.stages.read.query import Query, read_query
from beam_quad.stages.write.selection import WriteSelection
from pipelines import chain
from pipelines import options as quad_options
from pipelines.builder import Builder, Chain
from pipelines.columns import corpus_columns, query_columns
from pipelines.identity import Identity
from pipelines.inputs import Inputs, look
from pipelines.options import QuadOptions
from pipelines.prove_options import (
    HELD_OUT_GROUP,
    MOST_TOKENS,
    RANDOM,
    SELECTION,
    ProveOptions,
)
from pipelines.query import plan_groups, plan_query
from pipelines.reserve import share_set_aside
from pipelines.run_options import RunOptions


def build(options: ProveOptions, inputs: Inputs) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: The inputs found by `look`.

    Returns:
      The chain; nothing is written yet.

    Raises:
      UsageError: If a rival is invalid, or a contender has used a held-out text as its query.
    """
    return _ProofBuilder(options, inputs).build()


class _ProofBuilder(Builder):
    """Links the training data of contenders, the measured texts, and the trainings."""

    def __init__(self, options: ProveOptions, inputs: Inputs) -> None:
        self.options = options
        self.runs: dict[str, RunOptions] = {SELECTION: options.run, **options.against}
        self.manifests = {name: _manifest(run.output) for name, run in self.runs.items()}
        self.selected = self.manifests[SELECTION]["tokens"]["selected"]
        # As much is set aside as in Quad's selections, so their artifacts are found.
        rival = self._rival(RANDOM)
        rate = share_set_aside(rival, inputs.corpus)
        super().__init__(options, inputs, rate, Budget(rival.budget_tokens))
        self.records: dict[str, bytes] = inputs.unwritten
        # Documents with a query text are left out: only the random draw could have them, which would favour it.
        self.clean = dataclasses.replace(self.corpus, leaks=self.leaks)

    def build(self) -> Chain:
        options = self.options
        self.embed()
        start = self._start()
        smallest = min(manifest["tokens"]["selected"] for manifest in self.manifests.values())
        num_tokens = options.proof_tokens or min(smallest, MOST_TOKENS)
        draws = Draws(start, options.seeds, num_tokens)
        drawn: list[DrawStage] = [
            *(self._draw_parts(name, run, draws) for name, run in self.runs.items()),
            *(self._draw_policy(policy, draws) for policy in options.policies),
        ]
        for stage in drawn:
            self.add(stage)
        measured = self.add(
            DrawMeasured(
                self.clean,
                tuple(drawn),
                self._held_out(),
                options.heldout_texts,
                options.general_texts,
                options.seed,
            )
        )
        rate = options.learning_rate or start.learning_rate()
        trained = self.add(TrainOn(measured, start, rate))
        weights = tuple(query.weight for query in measured.held_out)
        configuration = identity.digest(WriteProof.kind, WriteProof.version, trained, weights)
        self.add(WriteProof(trained, SELECTION, self.output, weights, configuration))
        found = Identity(configuration, {}, {}, self.inputs.corpus.snapshot)
        return Chain(tuple(self.stages), self.corpus.plan_path, found, self.plans, self.records)

    def _start(self) -> Start:
        """The model to train."""
        options, path = self.options, self.options.proof_model
        if path is None:
            proxy = self.proxy()
            return TrainedModel(proxy.spec, proxy.fingerprint)
        spec = ProxySpec(
            path=path,
            device=options.device,
            dtype=options.dtype,
            num_threads=options.threads,
            max_windows=options.max_windows,
            max_batch_tokens=options.max_batch_tokens,
        )
        if untrained.is_bare(path):
            return self._configuration(spec)
        require_tokens(load_tokenizer(path, None), load_skeleton(spec), spec)
        return TrainedModel(spec, content_fingerprint(path, None))

    def _configuration(self, spec: ProxySpec) -> Configuration:
        """A configuration without weights, with its own tokenizer or the proxy's."""
        spec = dataclasses.replace(spec, path=files.absolute(os.path.expanduser(spec.path)))
        fingerprint = untrained.fingerprint(spec.path)
        proxy = self.inputs.proxy
        if untrained.has_tokenizer(spec.path):
            start = Configuration(spec, fingerprint, spec.path)
        elif proxy is None:
            raise UsageError(
                f"--proof_model={self.options.proof_model} has no tokenizer, and the selection no proxy to take it from; "
                "save a tokenizer beside it"
            )
        else:
            both = identity.digest(fingerprint, self.inputs.proxy_fingerprint)
            start = Configuration(spec, both, proxy.path, proxy.revision)
        start.tokenizer()
        return start

    def _draw_parts(self, name: str, run: RunOptions, draws: Draws) -> DrawFromParts:
        selected = files.join(run.output, "selected")
        if run.output_format not in ROW_FORMATS:
            raise UsageError(
                f"{selected} of {name} is in {run.output_format}, which holds no rows to train on; select again with "
                f"--output_format={ROW_FORMATS[0]} and --artifacts={run.artifacts_root}, which makes nothing else anew"
            )
        plan = plan_input(
            [selected],
            text_column=run.text_column,
            prompt_column=run.prompt_column,
            messages_column=run.messages_column,
            flag=f"{selected} of {name}",
            version_of=small_version,
        )
        root = self.options.artifacts_root
        path = self._plan_path(files.join(root, "proof_plan", plan.snapshot[:20]), plan)
        return DrawFromParts(
            root,
            name,
            path,
            plan.snapshot,
            corpus_columns(run, self.inputs.template),
            self.manifests[name]["tokens"]["selected"],
            draws,
            self.corpus.excluded,
        )

    def _draw_policy(self, policy: str, draws: Draws) -> DrawFromCorpus:
        if policy == RANDOM:
            return DrawFromCorpus(self.clean, policy, None, None, draws)
        options = self._rival(policy)
        built = chain.build(options, look(options))
        *stages, write = built.stages
        if not isinstance(write, WriteSelection):
            raise TypeError(
                f"the chain of {policy} ends in {write.name}, which writes no selection"
            )
        # Rivals share stages with the proof and with each other; each runs once.
        known = {stage.artifact for stage in self.stages}
        self.stages += [stage for stage in stages if stage.artifact not in known]
        self.plans |= built.plans
        # A rival's other records are for the output of a selection, and a rival writes none.
        self.records |= {
            path: data for path, data in built.records.items() if path in self.inputs.seen.unwritten
        }
        return DrawFromCorpus(write.corpus, policy, write.selection, self.selected, draws)

    def _rival(self, policy: str) -> QuadOptions:
        """Returns the flags of a policy for as many tokens from the same corpus by the same query."""
        run = self.options.run
        changes: dict[str, Any] = {
            "policy": policy,
            "budget_tokens": max(1, self.selected),
            # Weights need influence, which most policies do not compute.
            "weighted": False,
        }
        if isinstance(run, QuadOptions):
            options = dataclasses.replace(run, **changes)
        else:
            # For the defaults of Quad's own flags; the values of the required ones are replaced below.
            defaults, _ = quad_options.parse(
                [
                    "--input=input",
                    "--output=output",
                    "--tokens_column=tokens",
                    "--policy=random",
                    "--budget_tokens=1",
                ]
            )
            shared = {f.name: getattr(run, f.name) for f in dataclasses.fields(RunOptions)}
            options = dataclasses.replace(defaults, **shared | changes)
        try:
            options.check()
        except UsageError as error:
            raise UsageError(f"--policies: {policy} cannot be a rival: {error}") from error
        return options

    def _held_out(self) -> tuple[Query, ...]:
        """Returns the held-out texts; refuses them if a contender has used one as its query."""
        options = self.options
        if not options.heldout:
            texts = [
                t for plan in self.inputs.query.values() for t in self._texts(plan, options.run)[1]
            ]
            held_out = self.query
        else:
            plans = self._plan_held_out()
            # All texts of these files measure, not just the fifth that --prove sets aside.
            used_whole = dataclasses.replace(options.run, prove=False)
            texts = [t for plan in plans.values() for t in self._texts(plan, used_whole)[0]]
            columns = query_columns(options.run, self.inputs.template)
            held_out = tuple(
                self.query_group(
                    name, plan, columns, options.query_weights.get(name, 1.0), sets_aside=False
                )
                for name, plan in plans.items()
            )
        if not texts:
            raise UsageError(
                f"{options.output} has no held-out texts; pass --heldout=GLOB with texts to measure on"
            )
        prints = fingerprints(texts)
        for name, run in self.runs.items():
            plans = self.inputs.query if name == SELECTION else plan_query(run)
            self._check(plans, run, prints, texts)
        return held_out

    def _plan_held_out(self) -> dict[str, InputPlan]:
        """Plans the files of `--heldout`, or of each group of `--heldout_group`, by name."""
        columns = query_columns(self.options.run)
        return plan_groups(
            self.options.heldout,
            columns,
            lambda name: "--heldout" if name == HELD_OUT_GROUP else f"--heldout_group={name}",
        )

    def _check(
        self,
        plans: Mapping[str, InputPlan],
        run: RunOptions,
        prints: np.ndarray,
        texts: list[str],
    ) -> None:
        steering = [text for plan in plans.values() for text in self._texts(plan, run)[0]]
        both = np.flatnonzero(np.isin(prints, fingerprints(steering)))
        if len(both):
            raise UsageError(
                f"{len(both)} of {len(prints)} held-out texts steered {run.output}, such as "
                f"{json.dumps(texts[both[0]][:40])}; pass --heldout with texts that are in no query set"
            )

    def _texts(self, plan: InputPlan, run: RunOptions) -> tuple[list[str], list[str]]:
        """Reads query texts: those used as the query, and those set aside."""
        columns = query_columns(run, self.inputs.template)
        texts = [
            t for split in plan.splits for batch in read_query(split, columns) for t in batch.texts
        ]
        return divide(texts) if run.prove else (texts, [])


def _manifest(output: str) -> dict[str, Any]:
    return read_json(files.join(output, "manifest.json"))
