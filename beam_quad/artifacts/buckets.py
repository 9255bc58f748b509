"""Buckets of Amazon S3 and of compatible stores, and containers of Azure Blob Storage."""

import contextlib
import functools
import io
import itertools
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import obstore
import obstore.store
import pyarrow.fs
from obstore.exceptions import AlreadyExistsError, PreconditionError

from beam_quad.artifacts.patterns import Search
from beam_quad.artifacts.store import ABSENT, Ranges, Stat, Store, bucket_of, explained
from beam_quad.errors import UsageError

# A larger file is sent in parts, which cannot be conditional; a smaller one is held in memory.
_ONE_REQUEST_BYTES = 64 << 20
_S3_IDENTITIES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
}
_S3_PLACES = {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}


class Buckets(Store):
    """Amazon S3 and compatible stores, and Azure Blob Storage."""

    def stat(self, path: str) -> Stat | None:
        bucket, key = _bucket(path)
        with explained(path):
            try:
                return _object_stat(obstore.head(bucket, key))
            except FileNotFoundError:
                return None

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        root, folder = bucket_of(search.folder)
        # The client lists by folder only; the offset makes S3 skip the names that sort before the prefix.
        # The offset itself is left out, and the prefix may be a whole name; so the offset is the prefix less its last
        # character.
        first = bucket_of(search.prefix)[1].removeprefix(f"{folder}/" if folder else "")
        before = f"{folder}/{first[:-1]}".lstrip("/") if first[:-1] else None
        with explained(search.folder, needs_bucket=True):
            pages = obstore.list(_client_of(root), folder or None, offset=before, chunk_size=1000)
            for found in itertools.chain.from_iterable(pages):
                yield f"{root}/{found['path']}", _object_stat(found)

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        bucket, key = _bucket(path)
        with explained(path):
            size_bytes = obstore.head(bucket, key)["size"]

        def fetch(start: int, end: int) -> Any:
            return obstore.get_range(bucket, key, start=start, end=end)

        return io.BufferedReader(Ranges(path, size_bytes, fetch), buffer_bytes)

    def read(self, path: str) -> tuple[bytes, str]:
        with explained(path):
            found = obstore.get(*_bucket(path))
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        bucket, key = _bucket(path)
        mode: Any = "create" if over == ABSENT else {"e_tag": over} if over else "overwrite"
        is_large = spooled.tell() > _ONE_REQUEST_BYTES
        if is_large:
            # A writer that comes between this check and the last part loses; names are made from contents, so both
            # write the same bytes.
            if mode != "overwrite" and self.stat(path) is not None:
                return False
            mode = "overwrite"
        spooled.seek(0)
        with explained(path, needs_bucket=True):
            try:
                obstore.put(bucket, key, spooled, mode=mode, use_multipart=is_large)
            except (AlreadyExistsError, PreconditionError):
                return False
            except FileNotFoundError:
                # The version to replace has been deleted since it was read.
                if over:
                    return False
                raise
        return True

    def copy(self, source: str, target: str) -> bool:
        if bucket_of(source)[0] != bucket_of(target)[0]:
            return False
        with explained(target):
            obstore.copy(_bucket(source)[0], bucket_of(source)[1], bucket_of(target)[1])
        return True

    def delete(self, path: str, over: str | None = None) -> None:
        with explained(path), contextlib.suppress(FileNotFoundError):
            # Not every S3 or Azure server supports conditional deletes.
            if over is None or self.read(path)[1] == over:
                obstore.delete(*_bucket(path))


def _object_stat(found: Any) -> Stat:
    # Some servers give fractions of a second in a listing but not for a single object.
    modified_s = float(int(found["last_modified"].timestamp()))
    return Stat(found["size"], modified_s, (found["e_tag"] or "").strip('"'))


def _bucket(path: str) -> tuple[Any, str]:
    root, key = bucket_of(path)
    return _client_of(root), key


@functools.cache
def _client_of(root: str) -> Any:
    """Makes the client of a bucket; threads may share it."""
    # The timeout applies to a whole request, and sending 64 MB can be slow.
    # Servers on a local network often speak plain HTTP.
    options: dict[str, Any] = {"client_options": {"allow_http": True, "timeout": "10 min"}}
    if root.startswith("s3"):
        options |= _s3_options(root)
    return obstore.store.from_url(root, **options)


def _s3_options(root: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not _S3_IDENTITIES & os.environ.keys():
        # Credentials from profiles of ~/.aws, single sign-on and machine roles.
        try:
            from obstore.auth.boto3 import Boto3CredentialProvider
        except ImportError as error:
            raise UsageError(
                f"{root}: no AWS_ACCESS_KEY_ID is set, and a profile or role needs boto3; "
                "run: pip install 'beam_quad[aws]'"
            ) from error
        try:
            found["credential_provider"] = Boto3CredentialProvider()
        except ValueError as error:
            raise UsageError(
                f"{root}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
    if not _S3_PLACES & os.environ.keys():
        # If the region cannot be found, the first request to the bucket says why.
        with contextlib.suppress(OSError):
            found["region"] = pyarrow.fs.resolve_s3_region(root.partition("://")[2])
    return found
