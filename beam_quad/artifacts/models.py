"""Models that lie in a store, fetched once to a folder of this machine: libraries load from no other place."""

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
    """Fetches a model, as far as it is not here yet; one that has changed since has another folder.

    Args:
      url: Its folder in a store.

    Returns:
      A folder beside what is downloaded of the hub.

    Raises:
      UsageError: If there is no file of a model.
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
    content = seeding.digest("model", files.absolute(url), *(info.version for info in found))
    folder = pathlib.Path(constants.HF_HOME) / "beam_quad" / content[:20]
    targets = [folder / info.path.removeprefix(files.absolute(url)).lstrip("/") for info in found]
    missing = {
        info.path: str(to) for info, to in zip(found, targets, strict=True) if not to.exists()
    }
    list(files.in_parallel(files.copy, missing.keys(), missing.values()))
    return folder
