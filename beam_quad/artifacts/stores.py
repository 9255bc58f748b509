"""Object stores through Beam's own clients, of which each thread has one.

Beam's file systems make a client for every request. On S3 that parses the description of the service again, 0.1 s of CPU
time each; on Cloud Storage it opens a connection, and asks for the bucket beside the object.
"""

import contextlib
import copy
import datetime
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

from apache_beam.io.aws import s3io
from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystemio import UploaderStream
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp import gcsio
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from google.api_core.exceptions import NotFound
from google.auth.exceptions import GoogleAuthError

from beam_quad.errors import UsageError


class Stat(NamedTuple):
    """What is known of an object without reading it.

    Attributes:
      size_bytes: Its size.
      modified_s: Modification time, in seconds since 1970.
      checksum: Changes with the content, and with nothing else where the store computes it of the content; empty
        where there is none.
    """

    size_bytes: int
    modified_s: float
    checksum: str = ""


_NO_OPTIONS = PipelineOptions([])
_PER_THREAD = threading.local()
_WRITE_BUFFER_BYTES = 128 << 10
_NOT_ALLOWED = (401, 403)
_GCS_REMEDY = (
    "log in with `gcloud auth application-default login`, and be given the role Storage Object User"
)
_S3_REMEDY = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; listing, reading, writing "
    "and deleting must be allowed"
)


class Store(Protocol):
    """What is asked of an object store; every path is a URL with a bucket and a key."""

    def stat(self, path: str) -> Stat | None:
        """Describes an object by one request; None where there is no such object."""

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """Lists what starts with a prefix, by one request for each thousand or so."""

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        """Opens an object for reading; at least `buffer_bytes` are fetched at a time."""

    def create(self, path: str) -> BinaryIO:
        """Opens an object for writing, which appears whole when it is closed."""

    def writing(self, path: str) -> contextlib.AbstractContextManager[None]:
        """Explains the errors of writing and closing what `create` gave."""

    def copy(self, source: str, target: str) -> None:
        """Copies within the store; no byte of it comes here."""

    def rename(self, source: str, target: str) -> None:
        """Copies within the store, then deletes the source."""

    def delete(self, path: str) -> None:
        """Deletes an object; one that is not there is no error."""


def store_of(path: str) -> Store | None:
    """Gives the store of a `gs://` or `s3://` path, with the options that Beam's file systems were given.

    Returns:
      None for every other path, which Beam's own file systems take.

    Raises:
      UsageError: If the store needs a package that is not installed, or nothing is known of the scheme.
    """
    scheme = FileSystems.get_scheme(path)
    if scheme == "gs":
        return _of_this_thread(scheme, _CloudStorage)
    if scheme == "s3":
        return _of_this_thread(scheme, _S3)
    check_scheme(path)
    return None


def _of_this_thread(scheme: str, make: Callable[[PipelineOptions], Store]) -> Store:
    # Neither library promises that threads may share a client, and both warn when many do.
    options = FileSystems._pipeline_options or _NO_OPTIONS
    known: tuple[PipelineOptions, Store] | None = getattr(_PER_THREAD, scheme, None)
    if known is None or known[0] is not options:
        known = options, make(options)
        setattr(_PER_THREAD, scheme, known)
    return known[1]


def check_scheme(path: str) -> None:
    """Refuses a URL of a scheme that Beam does not know; asks no server.

    Raises:
      UsageError: With the schemes that are common.
    """
    scheme = FileSystems.get_scheme(path)
    if scheme in (None, "gs", "s3"):
        return
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:
        raise UsageError(
            f"{path}: {scheme}:// is no known scheme; write gs://, s3:// or a local path"
        ) from error


class _CloudStorage:
    """Google Cloud Storage."""

    def __init__(self, options: PipelineOptions) -> None:
        # An emulator asks for no credentials, and looking for some that are not there takes half a minute.
        has_emulator = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
        self._client = gcsio.create_storage_client(options, use_credentials=not has_emulator)
        self._io = gcsio.GcsIO(self._client, options)

    def stat(self, path: str) -> Stat | None:
        with _explained_gcs(path):
            try:
                return _gcs_stat(self._io._gcs_object(path))
            except NotFound:
                return None

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        # Beam's own listing leaves out the checksums, which come with it.
        bucket, key = gcsio.parse_gcs_path(prefix, object_optional=True)
        with self.writing(prefix):
            for blob in self._client.list_blobs(bucket, prefix=key):
                yield f"gs://{bucket}/{blob.name}", _gcs_stat(blob)

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        with _explained_gcs(path):
            try:
                return self._io.open(path, "rb", read_buffer_size=buffer_bytes)
            except NotFound as error:
                raise FileNotFoundError(errno.ENOENT, "not found", path) from error

    def create(self, path: str) -> BinaryIO:
        return self._io.open(path, "wb")

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[None]:
        with _explained_gcs(path):
            try:
                yield
            except Exception as error:
                if _status_of(error) == 404:
                    raise _no_bucket(path) from error
                raise

    def copy(self, source: str, target: str) -> None:
        with _explained_gcs(target):
            self._io.copy(source, target)

    def rename(self, source: str, target: str) -> None:
        with _explained_gcs(target):
            self._io.rename(source, target)

    def delete(self, path: str) -> None:
        with _explained_gcs(path):
            self._io.delete(path)


class _S3:
    """Amazon S3, and what speaks its protocol."""

    def __init__(self, options: PipelineOptions) -> None:
        if not s3io.BOTO3_INSTALLED:
            raise UsageError("s3:// needs boto3; run: pip install 'beam_quad[aws]'")
        # Beam takes requests without credentials for failures that pass, and tries for hours.
        has_key = options.view_as(S3Options).s3_access_key_id is not None
        if not has_key and boto3_client.boto3.session.Session().get_credentials() is None:
            raise UsageError(f"s3://: no credentials; {_S3_REMEDY}")
        self._client = boto3_client.Client(options)

    def _io(self) -> s3io.S3IO:
        # Beam's client keeps the stream of the one object that it is reading; a copy has the connections in common.
        return s3io.S3IO(copy.copy(self._client))

    def stat(self, path: str) -> Stat | None:
        with _explained_s3(path):
            try:
                item = self._io()._s3_object(path)
                return _s3_stat(item.size, item.last_modified, item.etag)
            except S3ClientError as error:
                if error.code == 404:
                    return None
                raise

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        # Not by Beam's listing, which leaves out the checksums, and takes a bucket that is not there for an empty one.
        bucket, key = s3io.parse_s3_path(prefix, object_optional=True)
        pages = self._client.client.get_paginator("list_objects_v2")
        with self.writing(prefix):
            try:
                for page in pages.paginate(Bucket=bucket, Prefix=key):
                    for item in page.get("Contents", ()):
                        stat = _s3_stat(item["Size"], item["LastModified"], item["ETag"])
                        yield f"s3://{bucket}/{item['Key']}", stat
            except Exception as error:
                raise S3ClientError(str(error), boto3_client.get_http_error_code(error)) from error

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        with _explained_s3(path):
            return self._io().open(path, "rb", read_buffer_size=buffer_bytes)

    def create(self, path: str) -> BinaryIO:
        with self.writing(path):
            stream = UploaderStream(_Uploader(self._client, path), mode="wb")
        return io.BufferedWriter(stream, buffer_size=_WRITE_BUFFER_BYTES)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[None]:
        with _explained_s3(path):
            try:
                yield
            except S3ClientError as error:
                if error.code == 404:
                    raise _no_bucket(path) from error
                raise

    def copy(self, source: str, target: str) -> None:
        with _explained_s3(target):
            self._io().copy(source, target)

    def rename(self, source: str, target: str) -> None:
        with _explained_s3(target):
            self._io().rename(source, target)

    def delete(self, path: str) -> None:
        with _explained_s3(path):
            self._io().delete(path)


class _Uploader(s3io.S3Uploader):
    """Beam's upload in parts, for files without a byte too: S3 completes none that has no part."""

    def finish(self) -> None:
        if not self.parts and not self.buffer:
            self._write_to_s3(b"")
        super().finish()


def _gcs_stat(blob: Any) -> Stat:
    # An object that was composed of others has no MD5.
    return Stat(blob.size, blob.updated.timestamp(), blob.md5_hash or blob.crc32c or "")


def _s3_stat(size_bytes: int, modified: datetime.datetime, etag: str) -> Stat:
    # Some servers tell fractions of a second in a listing that they leave out when asked for one object.
    return Stat(size_bytes, float(int(modified.timestamp())), etag.strip('"'))


@contextlib.contextmanager
def _explained_gcs(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, GoogleAuthError) or _status_of(error) in _NOT_ALLOWED:
            raise UsageError(f"{path}: access denied ({_short(error)}); {_GCS_REMEDY}") from error
        raise


def _status_of(error: Exception) -> int | None:
    """Gives the HTTP status of an error of google-cloud-storage, whose uploads raise other types than the rest."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status or getattr(error, "code", None)


@contextlib.contextmanager
def _explained_s3(path: str) -> Iterator[None]:
    try:
        yield
    except S3ClientError as error:
        if error.code in _NOT_ALLOWED:
            raise UsageError(f"{path}: access denied ({_short(error)}); {_S3_REMEDY}") from error
        raise


def _short(error: Exception) -> str:
    text = " ".join(str(getattr(error, "message", None) or error).split())
    return text if len(text) <= 160 else text[:159] + "…"


def _no_bucket(path: str) -> UsageError:
    scheme, _, rest = path.partition("://")
    bucket = f"{scheme}://{rest.split('/')[0]}"
    return UsageError(f"{bucket}: there is no such bucket; check the name, or make it")
