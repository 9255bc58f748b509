"""What holds the files of a path, by its scheme."""

import functools
import importlib

import fsspec

from beam_quad.artifacts.store import Store, scheme_of
from beam_quad.errors import UsageError

# Where the store of a scheme is; all others are fsspec's. They are imported when they are needed: clients take seconds.
_STORES = {
    "": ("disk", "Disk"),
    "gs": ("cloud_storage", "CloudStorage"),
    **dict.fromkeys(("s3", "s3a", "az", "abfs", "abfss"), ("buckets", "Buckets")),
}
_OTHER = ("any_scheme", "AnyScheme")


def store_of(path: str) -> Store:
    """Gives the store of a path.

    Raises:
      UsageError: If the store needs a package that is not installed, or nothing is known of the scheme.
    """
    check_scheme(path)
    return _store(*_STORES.get(scheme_of(path), _OTHER))


@functools.cache
def _store(module: str, name: str) -> Store:
    store: Store = getattr(importlib.import_module(f"beam_quad.artifacts.{module}"), name)()
    return store


def check_scheme(path: str) -> None:
    """Refuses a URL of a scheme that nothing is known of; asks no server.

    Raises:
      UsageError: With the schemes that are common, or the package that is missing.
    """
    scheme = scheme_of(path)
    if scheme in _STORES:
        return
    try:
        # Other spellings of what is here.
        if scheme in ("file", "local", "gcs"):
            raise ValueError
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise UsageError(
            f"{path}: {scheme}:// is no known scheme; write gs://, s3://, abfs://, hf:// or a local path"
        ) from error
    except ImportError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
