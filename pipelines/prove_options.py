"""Flags of the proof of a selection."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

from beam_quad.errors import UsageError
from pipelines import command_line, flags, parsing
from pipelines.flags import Flag, changed, flag
from pipelines.options import POLICIES
from pipelines.run_options import HOW_STARTED, RunOptions

# The name of the selection in `proof.json`.
SELECTION = "selection"
# A uniform draw from the corpus, which is always among the contenders.
RANDOM = "random"
MOST_TOKENS = 2_000_000
# The group of --heldout; no query group can have this name.
HELD_OUT_GROUP = "held out"

_contenders = functools.partial(flag, group="contenders")
_training = functools.partial(flag, group="training")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProveOptions(RunOptions):
    """The flags of `pipelines.prove`; those of `RunOptions` are the selection's, except for where and how the proof runs.

    Attributes:
      run: The flags of the selection.
      against: The flags of other selections, by name.
      policies: Rivals on the same corpus, the random draw first.
      heldout: Globs of texts to measure on by query group, in place of those set aside by the selection; `HELD_OUT_GROUP`
        alone if they belong to no group.
      proof_model: The model to train, or a configuration of one; None for the proxy.
      proof_tokens: Tokens of a training; None for those of the smallest selection, at most 2 million.
      seeds: Trainings of each contender.
      learning_rate: Peak learning rate of the trainings; None for a default by the model's size.
      heldout_texts: Maximum number of held-out texts of a query group.
      general_texts: Number of texts of the general mix.
    """

    COMMAND = "prove"
    SUMMARY = (
        "Measures what a finished selection is worth: a model is trained on it and on its rivals, "
        "and tested on query texts that no contender has used."
    )
    GROUPS = ("contenders", "training", "running")

    run: RunOptions
    output: str = _contenders(
        "folder of the finished selection; proof.json goes there; {date} is today",
        is_required=True,
        is_common=True,
        pattern=flags.URL,
    )
    against: dict[str, RunOptions] = flag(
        "folder of another selection; may be repeated, or a list with commas",
        group="contenders",
        is_repeated=True,
        is_common=True,
        pattern=flags.URLS,
    )
    policies: tuple[str, ...] = _contenders(
        "rivals on the same corpus, with commas",
        "random,ngram,dsir",
        is_common=True,
        pattern=r"[a-z_]+(,[a-z_]+)*",
    )
    heldout: dict[str, tuple[str, ...]] = flag(
        "glob of texts to measure on; default those that --prove set aside",
        others=(
            Flag(
                "NAME=GLOB: texts to measure on for a query group; pass it for every group",
                group="contenders",
                name="heldout_group",
                is_repeated=True,
                pattern=flags.NAMED_URLS,
            ),
        ),
        group="contenders",
        is_repeated=True,
        is_common=True,
        pattern=flags.URLS,
    )
    artifacts: str | None = _contenders(
        "directory of what is reused; default the selection's", pattern=flags.URL
    )
    proof_model: str | None = _training(
        "model to train: folder, here or in a store, or hub id; or, from scratch, a config.json or a folder with one and no weights; "
        "default the selection's proxy",
        is_common=True,
    )
    proof_tokens: int | None = _training(
        "tokens of a training; default those of the smallest selection, at most 2M",
        is_common=True,
        reads=parsing.count,
        at_least=1,
    )
    seeds: int = _training("trainings of each contender", 3, is_common=True, at_least=1)
    learning_rate: float | None = _training(
        "peak learning rate of the trainings; default 5e-4, or by the size of a model from scratch",
        is_positive=True,
    )
    heldout_texts: int = _training(
        "most held-out texts of a query group to measure on", 2000, reads=parsing.count, at_least=1
    )
    general_texts: int = _training(
        "texts of the general mix to measure on", 500, reads=parsing.count, at_least=1
    )
    device: str = changed(
        RunOptions,
        "device",
        help="cpu, cuda or cuda:N; default the selection's",
        default=None,
        group="training",
    )
    dtype: str = changed(
        RunOptions, "dtype", help="dtype of the model; default as for a selection", group="training"
    )
    threads: int | None = changed(
        RunOptions,
        "threads",
        help="CPU threads of a model; default as for a selection",
        group="training",
    )

    @property
    def needs_embeddings(self) -> bool:
        """Whether the proof itself embeds texts; a rival's own stages may embed texts regardless."""
        return False

    def check(self) -> None:
        """Refuses invalid options; see `RunOptions.check`."""
        super().check()
        if self.proxy_model is None and self.proof_model is None:
            raise UsageError(
                "the selection was made without a proxy; pass --proof_model, a folder or hub id, to train"
            )
        if self.heldout and HELD_OUT_GROUP not in self.heldout:
            self._check_groups()
        if not self.run.prove and not self.heldout:
            raise UsageError(
                f"all query texts of {self.output} may have steered it, and cannot prove it: pass --heldout=GLOB with "
                "other texts of their kind, or select again with --prove"
            )

    def _check_groups(self) -> None:
        for name in self.heldout:
            if name not in self.run.query:
                raise UsageError(
                    f"--heldout_group={name}: the selection has no query group {name}; it has {', '.join(self.run.query)}"
                )
        for name in self.run.query:
            if name not in self.heldout:
                raise UsageError(
                    f"--heldout_group has no texts of {name}; pass --heldout_group={name}=GLOB too"
                )


def parse(argv: Sequence[str]) -> tuple[ProveOptions, list[str]]:
    """Parses a command line, and reads the flags of the selection.

    Args:
      argv: Arguments without the program's name.

    Returns:
      Our options, and the remaining arguments, all known to Beam or its job server.

    Raises:
      UsageError: If a flag is unknown, or its value is missing or invalid; if there is no finished selection.
    """
    values, rest = command_line.parse(ProveOptions, argv)
    policies = _policies(values["policies"])
    # Imported late, because Beam takes seconds and an invalid flag should fail at once.
    from beam_quad.artifacts import files
    from pipelines import recorded

    output = files.absolute(parsing.dated(values["output"]))
    run = _placed(recorded.read(output, "--output"), values, rest)
    own = getattr(run, "policy", None)
    shared = {field.name: getattr(run, field.name) for field in dataclasses.fields(RunOptions)}
    given = {name: values[name] for name in HOW_STARTED}
    options = ProveOptions(
        **shared | given,
        run=run,
        against=_against(values["against"], output),
        policies=tuple(name for name in policies if name == RANDOM or name != own),
        heldout=_heldout(values["heldout"], values["heldout_group"]),
        proof_model=values["proof_model"],
        proof_tokens=values["proof_tokens"],
        seeds=values["seeds"],
        learning_rate=values["learning_rate"],
        heldout_texts=values["heldout_texts"],
        general_texts=values["general_texts"],
    )
    options.check()
    return options, rest


def _placed(run: RunOptions, values: dict[str, Any], rest: Sequence[str]) -> RunOptions:
    """Moves a run to the place of the proof, by its flags."""
    changes: dict[str, Any] = {
        "threads": values["threads"] or parsing.threads_of_a_process(rest),
    }
    if values["artifacts"]:
        changes["artifacts"] = values["artifacts"]
    if values["device"]:
        changes["device"] = values["device"]
        changes["dtype"] = parsing.default_dtype(values["device"])
    if values["dtype"]:
        changes["dtype"] = values["dtype"]
    # Rivals select from the whole corpus, even if the selection has a base.
    changes |= {"base": None, "reselect": False, "refit": False, "grow_clusters": False}
    return dataclasses.replace(run, **changes)


def _policies(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in POLICIES:
            raise UsageError(
                f"--policies={text}: no policy {name}; there are {', '.join(POLICIES)}"
            )
    return tuple(dict.fromkeys((RANDOM, *names)))


def _heldout(plain: list[str], named: list[str]) -> dict[str, tuple[str, ...]]:
    if plain and named:
        raise UsageError("pass --heldout or --heldout_group, not both")
    if plain:
        return {HELD_OUT_GROUP: tuple(plain)}
    return parsing.named_globs(named, "--heldout_group")


def _against(folders: Sequence[str], output: str) -> dict[str, RunOptions]:
    from beam_quad.artifacts import files
    from pipelines import recorded

    named: dict[str, RunOptions] = {}
    for folder in _split(folders):
        path = files.absolute(folder)
        name = path.rstrip("/").rsplit("/", 1)[-1]
        if path == output:
            raise UsageError(f"--against={folder} is the selection itself; pass another one")
        if name in named or name in (SELECTION, *POLICIES):
            raise UsageError(
                f"--against={folder}: another contender is named {name}; rename the folder"
            )
        named[name] = recorded.read(path, "--against")
    return named


def _split(folders: Sequence[str]) -> list[str]:
    """Splits lists with commas, because a template has a single parameter for all values of a repeated flag."""
    from beam_quad.artifacts import files
    from beam_quad.artifacts.patterns import split_list

    return [
        folder
        for given in folders
        for folder in split_list(given, lambda path: files.is_local(path) and os.path.isdir(path))
    ]
