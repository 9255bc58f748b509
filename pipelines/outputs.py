"""The output of a run: whether it is complete, which run it belongs to, and what is printed about it."""

import json
import math
from typing import Any

from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import find_json
from beam_quad.errors import UsageError
from beam_quad.report.judgements import about
from beam_quad.report.proof import about_proof
from beam_quad.stages.proof.write import PROOF
from beam_quad.stages.refresh.base import records_folder, rows_folder
from pipelines import recorded
from pipelines.identity import Identity


class SelectionOutput:
    """The output of a selection, which belongs to one configuration."""

    last_file = "COMPLETE"

    def check(self, output: str, identity: Identity) -> bool:
        """Tells whether the output is complete; refuses an output with another run's selection or foreign files.

        Until its selection is begun, an output belongs to no run. Artifacts are named by what they depend on, so a corrected
        command reuses the matching ones and ignores the others.
        """
        found: dict[str, Any] | None = None
        # The manifest comes first, because users may delete `_run/`.
        for path in (files.join(output, "manifest.json"), _configuration_path(output)):
            found = found or _read_identity(path)
        if found is not None and found["configuration"] == identity.configuration:
            is_complete = files.exists(files.join(output, "COMPLETE"))
            # A finished part is never replaced, and one selection cannot hold parts of two.
            if is_complete or _begun_as(output) == identity.selection:
                return is_complete
        own = files.join(output, "_run") + "/"
        strangers = [f.path for f in files.find(output) if not f.path.startswith(own)]
        if not strangers:
            return False
        if found is None:
            raise UsageError(
                f"{output} holds other files, such as {strangers[0]}; pass a new --output"
            )
        raise UsageError(
            f"{output} belongs to another configuration or input: {identity.difference(found)}; pass a new --output "
            f"(and --artifacts={recorded.artifacts_of(output)} to reuse what fits), or delete it"
        )

    def begin(self, output: str, identity: Identity) -> None:
        """Claims the output for this run, which holds its lock."""
        if _begun_as(output) != identity.selection:
            # `check` found no parts of another version's selection, but its notes on parts and splits may be there.
            noted = (
                rows_folder(output, identity.configuration),
                records_folder(output, identity.configuration),
            )
            files.delete(info.path for folder in noted for info in files.find(folder))
        files.write(_configuration_path(output), identity.to_bytes())
        for folder in ("selected", "rejected", "decisions"):
            # Only the lock's owner writes here, so temporary files of killed runs can be deleted at any age.
            files.delete_temporaries(files.join(output, folder), older_than_s=-math.inf)

    def print_summary(self, output: str) -> None:
        """Prints the result of the run."""
        manifest = json.loads(files.read_bytes(files.join(output, "manifest.json")))
        counts = manifest["counts"]
        print(
            f"{counts['read']:,} documents were read, {counts['rejected']:,} rejected, {counts['scored']:,} scored"
        )
        for name, target in manifest.get("targets", {}).items():
            print(_about_target(name, target))
        for line in about(manifest):
            print(line)
        if manifest["config"].get("prove"):
            print(f"to see what it is worth: beam-quad prove --output={output}")
        print(f"report: {files.join(output, 'report.html')}")


class ProofOutput:
    """The proof in the output of a finished selection; only the last requested one is kept."""

    last_file = PROOF

    def check(self, output: str, identity: Identity) -> bool:
        """Tells whether the proof exists."""
        found = _read_identity(files.join(output, PROOF))
        return found is not None and found["configuration"] == identity.configuration

    def begin(self, output: str, identity: Identity) -> None:
        """Deletes a different proof; the artifacts it was made from are kept."""
        path = files.join(output, PROOF)
        if files.exists(path):
            files.delete([path])

    def print_summary(self, output: str) -> None:
        """Prints the verdict, and what it rests on."""
        path = files.join(output, PROOF)
        proof = json.loads(files.read_bytes(path))
        for line in about_proof(proof):
            print(line)
        print(f"proof: {path}; report: {files.join(output, 'proof.html')}")


def _configuration_path(output: str) -> str:
    return files.join(output, "_run", "configuration")


def _begun_as(output: str) -> str | None:
    """Reads the digest of the selection begun in an output; None if none was."""
    digest: str | None = (_read_identity(_configuration_path(output)) or {}).get("selection")
    return digest


def _read_identity(path: str) -> dict[str, Any] | None:
    """Reads the identity of a run from one of our files; None if the file is missing or another program's."""
    found = find_json(path)
    return found if isinstance(found, dict) and "configuration" in found else None


def _about_target(name: str, target: dict[str, Any]) -> str:
    influence = target["influence"]
    means = [influence[kind] for kind in ("selected_mean", "random_mean")]
    selected, random = ("unknown" if mean is None else f"{mean:.4g}" for mean in means)
    return (
        f"target {name}: {target['documents']:,} documents, {target['tokens']:,} tokens, "
        f"mean influence {selected}, of a random draw {random}"
    )
