"""Stores by the schemes of URLs."""

import functools
import importlib

import fsspec

from beam_quad.artifacts.store import Store, scheme_of
from beam_quad.errors import UsageError

# Store classes by scheme; fsspec serves all other schemes. Imported on first use, because clients take seconds to import.
_STORES = {
    "": ("disk", "Disk"),
    "gs": ("cloud_storage", "CloudStorage"),
    **dict.fromkeys(("s3", "s3a", "az", "abfs", "abfss"), ("buckets", "Buckets")),
}
_OTHER = ("any_scheme", "AnyScheme")


def store_of(path: str) -> Store:
    """Returns the store of a path.

    Raises:
      UsageError: If the store needs a package that is not installed, or the scheme is unknown.
    """
    check_scheme(path)
    return _store(*_STORES.get(scheme_of(path), _OTHER))


@functools.cache
def _store(module: str, name: str) -> Store:
    store: Store = getattr(importlib.import_module(f"beam_quad.artifacts.{module}"), name)()
    return store


def check_scheme(path: str) -> None:
    """Refuses a URL with an unknown scheme, without any request.

    Raises:
      UsageError: With the common schemes, or the missing package.
    """
    scheme = scheme_of(path)
    if scheme in _STORES:
        return
    try:
        # Other spellings of supported schemes.
        if scheme in ("file", "local", "gcs"):
            raise ValueError
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise UsageError(
            f"{path}: {scheme}:// is no known scheme; write gs://, s3://, abfs://, hf:// or a local path"
        ) from error
    except ImportError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
