"""Models in an object store, fetched once to a local folder, the only place from which libraries load models."""

import fnmatch
import functools
import pathlib

from huggingface_hub import constants

from beam_quad import seeding
from beam_quad.artifacts import files
from beam_quad.errors import UsageError
from beam_quad.gradients.checkpoints import DOWNLOADED


@functools.cache
def fetch_model(url: str) -> pathlib.Path:
    """Fetches the files of a model that are not local yet; a changed model gets another folder.

    Args:
      url: The model's folder in a store.

    Returns:
      A folder beside the downloads of the hub.

    Raises:
      UsageError: If the folder has no file of a model.
    """
    found = [
        info
        for info in files.find(url)
        if any(fnmatch.fnmatch(info.path.rsplit("/", 1)[-1], name) for name in DOWNLOADED)
    ]
    if not found:
        raise UsageError(
            f"{url}: holds no file of a model, such as config.json and *.safetensors; check the name"
        )
    # Named by the versions of the files: a model changed in place is fetched again, into another folder.
    content = seeding.digest("model", files.absolute(url), *(info.version for info in found))
    folder = pathlib.Path(constants.HF_HOME) / "beam_quad" / content[:20]
    targets = [folder / info.path.removeprefix(files.absolute(url)).lstrip("/") for info in found]
    # A copy appears only once it is complete, so a file that exists need not be checked.
    missing = {
        info.path: str(to) for info, to in zip(found, targets, strict=True) if not to.exists()
    }
    # A list, so that errors of the threads are raised here.
    list(files.in_parallel(files.copy, missing.keys(), missing.values()))
    return folder
