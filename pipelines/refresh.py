"""Finds, checks and reads the base of a run, an earlier selection."""

import dataclasses
import datetime
import hashlib
import json
import logging
import posixpath
from collections.abc import Mapping
from typing import Any, TypeVar

from beam_quad.artifacts import files
from beam_quad.corpus.splits import InputPlan
from beam_quad.errors import UsageError
from beam_quad.stages.refresh.base import Base
from pipelines import dated, recorded
from pipelines.parsing import More
from pipelines.run_options import HOW_STARTED, RunOptions

Options = TypeVar("Options", bound=RunOptions)
_log = logging.getLogger(__name__)
_VERSION = 1
# The unit of each flag.
_BUDGETS = {"budget_tokens": "tokens", "budget_examples": "examples"}
# Options that may differ from the base's: the budget, the input, and where and how fast the run goes.
_MAY_DIFFER = frozenset({
    "input", "input_root", "query", "output", "artifacts", "budget_tokens", "budget_examples", "base", "reselect", "refit", "grow_clusters",
    "exclude", "decontaminate", "decontaminate_words", "decontaminate_threshold", "keep_query_copies", "prove", "threads", "device", "proxy_model",
    "embedder", "weighted", "max_share_per_cluster", "share", "share_by", "order", "num_rounds", "near_duplicates", "near_duplicate_threshold", "decisions", "output_tokenizer", *HOW_STARTED,
})  # fmt: skip
_FLAG_OF = {
    "proxy": "--proxy_model",
    "embedder": "--embedder",
    "query": "--query",
}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The corpus to which a run's statistics were fitted: its own, or an earlier run's.

    Attributes:
      layout: Hash of its splits.
      plan: Its plan, relative to the folder of artifacts.
      reserve_rate: Share of its texts set aside.
      excluded: Digest of the list of excluded ids; None if there were none.
      shares: The shares for which landmarks were drawn, as written.
    """

    layout: str
    plan: str
    reserve_rate: float
    excluded: str | None = None
    shares: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """The base of a run.

    Attributes:
      selection: The selection, by reference.
      options: Its flags.
      fitted: The corpus behind its fitted statistics.
      scores: Path of its shortlist's scores, relative to the folder of artifacts; None without a shortlist.
      centers: Kind and name of its centers, if clusters were opened after the fit.
      evidence: Path of the scores of its bandit and earlier ones, relative as above; None without a bandit.
      manifest: Its manifest.
    """

    selection: Base
    options: RunOptions
    fitted: Fitted
    scores: str | None
    centers: list[str] | None
    evidence: str | None
    manifest: dict[str, Any]

    @property
    def chain(self) -> list[dict[str, str]]:
        """The runs before this one, the first one first: `configuration`, and SHA-256 of the `manifest`."""
        own = {
            "configuration": self.manifest["configuration"],
            "manifest": self.selection.manifest,
        }
        return [*self.manifest.get("refresh", {}).get("bases", ()), own]


def record_of(
    fitted: Fitted,
    plan: str,
    scores: str | None,
    centers: list[str] | None,
    evidence: str | None,
) -> bytes:
    """Serialises the record for later runs based on this one, as JSON.

    Args:
      fitted: What its statistics are fitted to.
      plan: The plan of its corpus, relative to the folder of artifacts.
      scores: As in `Found`.
      centers: As in `Found`.
      evidence: As in `Found`.
    """
    found = {
        "version": _VERSION,
        "fitted": dataclasses.asdict(fitted),
        "plan": plan,
        "scores": scores,
        "centers": centers,
        "evidence": evidence,
    }
    return json.dumps(found, indent=1, sort_keys=True).encode()


def record_path(output: str) -> str:
    """Returns the path of the record in an output."""
    return files.join(output, "_run", "fitted.json")


def resolved(options: Options) -> Options:
    """Finds the base, and takes the artifacts and the input's root from it if they are not given.

    Raises:
      UsageError: If there is none.
    """
    if options.base is None:
        if any(isinstance(getattr(options, name, None), More) for name in _BUDGETS):
            raise UsageError("a budget with + is added to that of --base; pass --base with it")
        return options
    output = _find(files.absolute(options.base), files.absolute(options.output))
    # The first run of a schedule has the command of all later ones, but nothing to go on from.
    if output is None:
        options = dataclasses.replace(
            options, base=None, reselect=False, refit=False, grow_clusters=False
        )
        return _with_budget(options, {})
    before = recorded.read(output, "--base")
    # Fits and scores are found by their folders, so a refresh works in the folder of its base.
    if options.artifacts is None:
        options = dataclasses.replace(options, artifacts=before.artifacts_root)
    elif files.absolute(options.artifacts) != before.artifacts_root:
        raise UsageError(
            f"--base={output} has its artifacts in {before.artifacts_root}; leave --artifacts out, or pass that folder"
        )
    manifest, _ = _manifest(output)
    root = manifest["input"]["root"]
    # If the corpus has moved, the root is determined again as in a first run.
    if options.input_root is None and root and all(_lies_in(root, p) for p in options.input):
        options = dataclasses.replace(options, input_root=root)
    return dataclasses.replace(_with_budget(options, manifest["budget"]), base=output)


def _with_budget(options: Options, before: Mapping[str, Any]) -> Options:
    """Converts a budget given as an increment over the base's to a total; without a base the increment is the total."""
    given = {name: getattr(options, name, None) for name in _BUDGETS}
    changes: dict[str, Any] = {
        name: int(value) + (before["amount"] if before.get("unit") == _BUDGETS[name] else 0)
        for name, value in given.items()
        if isinstance(value, More)
    }
    return dataclasses.replace(options, **changes)


def read(options: RunOptions) -> Found | None:
    """Reads the base of a run with `resolved` flags.

    Raises:
      UsageError: If the base has another configuration, or is of an older version with fewer records.
    """
    if options.base is None:
        return None
    output, path = options.base, record_path(options.base)
    if not files.exists(path):
        raise UsageError(
            f"{path} is missing, without which no run goes on from --base; drop --base, and pass "
            f"--artifacts={options.artifacts_root} to reuse what fits"
        )
    stored = json.loads(files.read_bytes(path))
    if stored.get("version") != _VERSION:
        raise UsageError(f"{path} was written by another version; drop --base once")
    before = recorded.read(output, "--base")
    _check_flags(options, before)
    manifest, sha256 = _manifest(output)
    plan_path = files.join(options.artifacts_root, *stored["plan"].split("/"))
    if not files.exists(plan_path):
        raise UsageError(
            f"the artifacts of --base={output} are gone from {options.artifacts_root}; drop --base"
        )
    selection = Base(output, plan_path, sha256, manifest["configuration"])
    if missing := selection.missing_rows():
        raise UsageError(
            f"{output}/_run lacks which rows of {missing:,} splits --base selected; drop --base, and pass "
            f"--artifacts={options.artifacts_root} to reuse what fits"
        )
    fitted = Fitted(**stored["fitted"])
    scores, centers, evidence = (stored[name] for name in ("scores", "centers", "evidence"))
    return Found(selection, before, fitted, scores, centers, evidence, manifest)


def check_contents(found: Found, fingerprints: Mapping[str, Any]) -> None:
    """Refuses to go on with another model or query set.

    Args:
      found: The base.
      fingerprints: Content of the models and of the query set, by name.

    Raises:
      UsageError: Naming the flag.
    """
    # Scores under another model or query set cannot be ranked together with the base's.
    for name, flag in _FLAG_OF.items():
        if found.manifest["fingerprints"].get(name) != fingerprints.get(name):
            raise UsageError(
                f"{flag} has another content than that of --base={found.selection.output}; drop --base, and pass "
                f"--artifacts={found.options.artifacts_root} to reuse what fits"
            )


def _find(folder: str, output: str) -> str | None:
    """Finds the output of a base: the folder itself or, among dated outputs in it, the newest complete one before the run's.

    Args:
      folder: What was given.
      output: The run's own output.

    Returns:
      The output; None if the folder has none, in the first run of a schedule.
    """
    if files.exists(files.join(folder, "COMPLETE")):
        if folder == output:
            raise UsageError(f"--base={folder} is --output too; pass another --output")
        return folder
    own = dated.date_of(output) or datetime.datetime.now(datetime.UTC).date()
    complete = [
        posixpath.dirname(info.path) for info in files.find(files.join(folder, "*", "COMPLETE"))
    ]
    dates = dated.dated(complete)
    # A run that is repeated for an earlier day goes on from the day before it, not from later runs.
    before = {path: date for path, date in dates.items() if date < own and path != output}
    if (found := dated.newest(before)) is not None:
        return found
    if files.exists(recorded.path_of(folder)):
        raise UsageError(f"--base={folder} is not finished; run its command to the end first")
    if complete and not dates:
        raise UsageError(
            f"--base={folder} holds outputs whose names are no dates (2026-01-31); pass one of them"
        )
    if posixpath.dirname(output) != folder:
        raise UsageError(
            f"--base={folder} holds no finished selection from before {own}; pass a finished --output, or the folder that "
            "--output is in, by its date, or drop --base"
        )
    _log.warning("%s holds no selection from before %s: this run is the first", folder, own)
    return None


def _lies_in(root: str, pattern: str) -> bool:
    """Tells whether all matches of a pattern are in a folder."""
    return files.absolute(pattern).startswith(root.rstrip("/") + "/") or pattern == root


def check_splits(found: Found, plan: InputPlan) -> None:
    """Refuses a corpus without any file of the base, compared by name and content.

    Raises:
      UsageError: With the rule for naming files.
    """
    had = found.selection.splits()
    # If files were renamed, all would count as new and the base's documents as gone.
    if had and not any(found.selection.has(split) for split in plan.splits):
        raise UsageError(
            f"none of the files of --base={found.selection.output} is among --input, whose files are named relative to "
            f"{plan.root or 'nothing'}; pass --input_root with the folder that stands for "
            f"{found.manifest['input']['root']}, or drop --base"
        )


def _check_flags(options: RunOptions, before: RunOptions) -> None:
    if type(options) is not type(before):
        raise UsageError(
            f"--base={options.base} was made by the other pipeline; go on with that one, or drop --base"
        )
    for field in dataclasses.fields(options):
        old, new = getattr(before, field.name), getattr(options, field.name)
        if field.name not in _MAY_DIFFER and old != new:
            raise UsageError(
                f"--{field.name} was {_shown(old)} in --base={options.base} and is {_shown(new)}; pass the same, or drop "
                f"--base and pass --artifacts={options.artifacts_root} to reuse what fits"
            )


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _manifest(output: str) -> tuple[dict[str, Any], str]:
    data = files.read_bytes(files.join(output, "manifest.json"))
    return json.loads(data), hashlib.sha256(data).hexdigest()
