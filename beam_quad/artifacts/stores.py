"""What holds the files of a path: a disk, Cloud Storage, S3 or Azure, and whatever else fsspec knows, such as `hf://`."""

import contextlib
import datetime
import errno
import functools
import hashlib
import io
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import fsspec
import google.cloud.storage
import obstore
import obstore.store
import pyarrow.fs
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.auth.exceptions import GoogleAuthError
from obstore import exceptions

from beam_quad.artifacts.disk import Disk
from beam_quad.artifacts.patterns import Search
from beam_quad.artifacts.store import ABSENT, Stat, Store
from beam_quad.errors import BeamQuadError, UsageError

_S3, _AZURE = ("s3", "s3a"), ("az", "abfs", "abfss")
_DENIED = (
    PermissionError,
    GoogleAuthError,
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
)
# What stores say of a bucket or container that is not there, beside 404.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "FilesystemNotFound")
_REMEDIES = {
    "gs": "log in with `gcloud auth application-default login`, and be given the role Storage Object User",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; listing, reading, writing and "
    "deleting must be allowed",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or a token; be given the role Storage "
    "Blob Data Contributor",
    "hf": "log in with `hf auth login`, or set HF_TOKEN, to an account that has access",
}
_FAMILIES = dict.fromkeys(_S3, "s3") | dict.fromkeys(_AZURE, "az")
# Whose errors are those of a store or a network.
_CLIENTS = ("aiohttp", "botocore", "google", "httpx", "httpx2", "obstore", "requests", "urllib3")
_PER_THREAD = threading.local()
# Above it a file of S3 or Azure is sent in parts, which cannot be made conditional; below it it is held in memory.
_ONE_REQUEST_BYTES = 64 << 20
# Cloud Storage's client would ask for the bucket, too, whenever an object is not there.
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")


def scheme_of(path: str) -> str:
    """Gives the scheme of a URL; empty for a local path."""
    return path.partition("://")[0] if "://" in path else ""


def store_of(path: str) -> Store:
    """Gives the store of a path.

    Raises:
      UsageError: If the store needs a package that is not installed, or credentials that are not there, or nothing is
        known of the scheme.
    """
    scheme = scheme_of(path)
    if not scheme:
        return _DISK
    if scheme == "gs":
        return _CLOUD_STORAGE
    if scheme in (*_S3, *_AZURE):
        return _BUCKETS
    check_scheme(path)
    return _FSSPEC


def check_scheme(path: str) -> None:
    """Refuses a URL of a scheme that nothing is known of; asks no server.

    Raises:
      UsageError: With the schemes that are common, or the package that is missing.
    """
    scheme = scheme_of(path)
    if scheme in ("", "gs", *_S3, *_AZURE):
        return
    try:
        if scheme in ("file", "local", "gcs"):
            raise ValueError
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise UsageError(
            f"{path}: {scheme}:// is no known scheme; write gs://, s3://, abfs://, hf:// or a local path"
        ) from error
    except ImportError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error


def bucket_of(path: str) -> tuple[str, str]:
    """Splits a URL into what holds its objects, and the name there."""
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


class _Remote:
    """What all stores but disks do alike."""

    def spool(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return tempfile.TemporaryFile()

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        with _explained(path):
            size_bytes, fetch = self.fetching(path)
        return io.BufferedReader(_Ranges(path, size_bytes, fetch), buffer_bytes)

    def fetching(self, path: str) -> tuple[int, Callable[[int, int], Any]]:
        """Gives a file's size, and what reads it from one byte to before another."""
        raise NotImplementedError


class _Ranges(io.RawIOBase):
    """A file of which each read is a request."""

    def __init__(self, path: str, size_bytes: int, fetch: Callable[[int, int], Any]) -> None:
        self._path, self._size_bytes, self._fetch = path, size_bytes, fetch
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self._size_bytes)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        # By one request: a raw file would ask for 8 kB at a time.
        return bytes(self._next(self._size_bytes))

    def _next(self, size_bytes: int) -> memoryview:
        start, end = self._at, min(self._at + size_bytes, self._size_bytes)
        if start >= end:
            return memoryview(b"")
        with _explained(self._path):
            data = memoryview(self._fetch(start, end))
        self._at += len(data)
        return data


class _CloudStorage(_Remote):
    """Google Cloud Storage."""

    def _client(self) -> google.cloud.storage.Client:
        # It is not promised that threads may share one.
        if not hasattr(_PER_THREAD, "client"):
            _PER_THREAD.client = google.cloud.storage.Client()
        return _PER_THREAD.client

    def _blob(self, path: str) -> google.cloud.storage.Blob:
        root, key = bucket_of(path)
        return self._client().bucket(root.removeprefix("gs://")).blob(key)

    def stat(self, path: str) -> Stat | None:
        with _explained(path):
            blob = self._blob(path)
            try:
                blob.reload()
            except NotFound:
                return None
            return _blob_stat(blob)

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        root, key = bucket_of(search.prefix)
        with _explained(search.prefix, needs_bucket=True):
            for blob in self._client().list_blobs(root.removeprefix("gs://"), prefix=key):
                yield f"{root}/{blob.name}", _blob_stat(blob)

    def fetching(self, path: str) -> tuple[int, Callable[[int, int], Any]]:
        blob = self._blob(path)
        blob.reload()
        return blob.size, lambda start, end: blob.download_as_bytes(
            start=start, end=end - 1, raw_download=True
        )

    def read(self, path: str) -> tuple[bytes, str]:
        with _explained(path):
            blob = self._blob(path)
            data = blob.download_as_bytes(raw_download=True)
            return data, str(blob.generation)

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        generation = None if over is None else int(over or 0)
        with _explained(path, needs_bucket=True):
            try:
                self._blob(path).upload_from_file(
                    spooled, rewind=True, size=spooled.tell(), if_generation_match=generation
                )
            except PreconditionFailed:
                return False
        return True

    def copy(self, source: str, target: str) -> bool:
        with _explained(target):
            copied, token = self._blob(target), None
            while (token := copied.rewrite(self._blob(source), token=token)[0]) is not None:
                pass
        return True

    def delete(self, path: str, over: str | None = None) -> None:
        with _explained(path), contextlib.suppress(NotFound, PreconditionFailed):
            self._blob(path).delete(if_generation_match=None if over is None else int(over))


def _blob_stat(blob: google.cloud.storage.Blob) -> Stat:
    # An object that was composed of others has no MD5.
    return Stat(blob.size, blob.updated.timestamp(), blob.md5_hash or blob.crc32c or "")


class _Buckets(_Remote):
    """Amazon S3 and what speaks its protocol, and Azure Blob Storage."""

    def stat(self, path: str) -> Stat | None:
        bucket, key = _bucket(path)
        with _explained(path):
            try:
                return _object_stat(obstore.head(bucket, key))
            except FileNotFoundError:
                return None

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        root, folder = bucket_of(search.folder)
        # A listing by folder alone, of which S3 leaves out what comes before the beginning of the names.
        first = bucket_of(search.prefix)[1].removeprefix(f"{folder}/" if folder else "")
        before = f"{folder}/{first[:-1]}".lstrip("/") if first[:-1] else None
        with _explained(search.folder, needs_bucket=True):
            pages = obstore.list(_client_of(root), folder or None, offset=before, chunk_size=1000)
            for found in itertools.chain.from_iterable(pages):
                yield f"{root}/{found['path']}", _object_stat(found)

    def fetching(self, path: str) -> tuple[int, Callable[[int, int], Any]]:
        bucket, key = _bucket(path)
        size_bytes = obstore.head(bucket, key)["size"]
        return size_bytes, lambda start, end: obstore.get_range(bucket, key, start=start, end=end)

    def read(self, path: str) -> tuple[bytes, str]:
        with _explained(path):
            found = obstore.get(*_bucket(path))
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        bucket, key = _bucket(path)
        mode: Any = "create" if over == ABSENT else {"e_tag": over} if over else "overwrite"
        is_large = spooled.tell() > _ONE_REQUEST_BYTES
        if is_large:
            if mode != "overwrite" and self.stat(path) is not None:
                return False
            mode = "overwrite"
        spooled.seek(0)
        with _explained(path, needs_bucket=True):
            try:
                obstore.put(bucket, key, spooled, mode=mode, use_multipart=is_large)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return False
        return True

    def copy(self, source: str, target: str) -> bool:
        if bucket_of(source)[0] != bucket_of(target)[0]:
            return False
        with _explained(target):
            obstore.copy(_bucket(source)[0], bucket_of(source)[1], bucket_of(target)[1])
        return True

    def delete(self, path: str, over: str | None = None) -> None:
        with _explained(path), contextlib.suppress(FileNotFoundError):
            # Neither deletes by condition everywhere.
            if over is None or self.read(path)[1] == over:
                obstore.delete(*_bucket(path))


def _object_stat(found: Any) -> Stat:
    # Some servers tell fractions of a second in a listing that they leave out when asked for one object.
    modified_s = float(int(found["last_modified"].timestamp()))
    return Stat(found["size"], modified_s, (found["e_tag"] or "").strip('"'))


def _bucket(path: str) -> tuple[Any, str]:
    root, key = bucket_of(path)
    return _client_of(root), key


@functools.cache
def _client_of(root: str) -> Any:
    """Makes the client of a bucket, which threads may share."""
    # A timeout is of a whole request, and 64 MB may take their time.
    options: dict[str, Any] = {"client_options": {"allow_http": True, "timeout": "10 min"}}
    if scheme_of(root) in _S3:
        options |= _s3_options(root)
    return obstore.store.from_url(root, **options)


def _s3_options(root: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not _S3_IDENTITIES & os.environ.keys():
        # Profiles of ~/.aws, single sign-on, and roles of machines.
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
            raise UsageError(f"{root}: no credentials; {_REMEDIES['s3']}") from error
    if not _S3_PLACES & os.environ.keys():
        with contextlib.suppress(OSError):
            found["region"] = pyarrow.fs.resolve_s3_region(root.partition("://")[2])
    return found


_S3_IDENTITIES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
}
_S3_PLACES = {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}


class _Fsspec(_Remote):
    """Whatever fsspec knows; conditions are as strong as the file system's own."""

    def stat(self, path: str) -> Stat | None:
        with _explained(path):
            system, key = _system(path)
            try:
                found = system.info(key)
            except FileNotFoundError:
                return None
        return None if found["type"] == "directory" else _info_stat(found)

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        with _explained(search.folder):
            system, folder = _system(search.folder)
            try:
                listed = system.find(folder, detail=True)
            except FileNotFoundError as error:
                if "repository" in str(error):
                    raise PermissionError(str(error)) from error
                return
        for name, found in listed.items():
            yield search.folder + name[len(folder) :], _info_stat(found)

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        with _explained(path):
            system, key = fsspec.url_to_fs(path)
            return system.open(key, "rb", block_size=buffer_bytes)

    def read(self, path: str) -> tuple[bytes, str]:
        with _explained(path):
            system, key = _system(path)
            data = system.cat_file(key)
        return data, hashlib.sha256(data).hexdigest()

    def spool(self, path: str) -> contextlib.AbstractContextManager[Any]:
        return tempfile.NamedTemporaryFile()

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        if over and self.read(path)[1] != over:
            return False
        spooled.flush()
        with _explained(path):
            system, key = _system(path)
            try:
                system.put_file(spooled.name, key, mode="create" if over == ABSENT else "overwrite")
            except FileExistsError:
                return False
        return True

    def copy(self, source: str, target: str) -> bool:
        return False

    def delete(self, path: str, over: str | None = None) -> None:
        with _explained(path), contextlib.suppress(FileNotFoundError):
            if over is None or self.read(path)[1] == over:
                system, key = _system(path)
                system.rm_file(key)


def _system(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    system, key = fsspec.url_to_fs(path)
    # What other processes have written since is not in its cache.
    system.invalidate_cache(key)
    return system, key


_CHECKSUMS = ("blob_id", "xet_hash", "ETag", "etag", "md5Hash")
_TIMES = ("mtime", "last_modified", "LastModified", "updated", "created")


def _info_stat(found: Mapping[str, Any]) -> Stat:
    checksum = next((str(found[name]) for name in _CHECKSUMS if found.get(name)), "")
    modified = next((found[name] for name in _TIMES if found.get(name)), 0.0)
    if isinstance(modified, str):
        modified = datetime.datetime.fromisoformat(modified)
    if isinstance(modified, datetime.datetime):
        modified = modified.timestamp()
    return Stat(found["size"] or 0, float(modified), checksum)


@contextlib.contextmanager
def _explained(path: str, needs_bucket: bool = False) -> Iterator[None]:
    """Says in one line what a store's client raises, and what to do.

    Args:
      path: What is asked for.
      needs_bucket: Whether what is not there can only be the bucket.

    Raises:
      FileNotFoundError: If there is no such file.
      UsageError: If it is denied, or there is no such bucket.
      BeamQuadError: If the store cannot be reached, or fails.
    """
    try:
        yield
    except BeamQuadError:
        raise
    except Exception as error:
        scheme, words = scheme_of(path), " ".join(str(error).split())
        is_absent = isinstance(error, FileNotFoundError | NotFound)
        if (is_absent and needs_bucket) or any(name in words for name in _NO_BUCKET):
            bucket = bucket_of(path)[0]
            raise UsageError(
                f"{bucket}: there is no such bucket; check the name, or make it"
            ) from error
        if is_absent:
            raise FileNotFoundError(errno.ENOENT, "not found", path) from error
        if isinstance(error, _DENIED) or _status_of(error) in (401, 403):
            remedy = _REMEDIES.get(_FAMILIES.get(scheme, scheme), "check what this user may do")
            raise UsageError(f"{path}: access denied ({_short(words)}); {remedy}") from error
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS:
            raise BeamQuadError(
                f"{path}: the store does not answer as it should ({_short(words)}); check the network and "
                "the address of the store, and run the same command to go on"
            ) from error
        raise


def _status_of(error: Exception) -> int | None:
    """Gives the HTTP status behind an error, which clients keep in different places."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status or getattr(error, "code", None)


def _short(words: str) -> str:
    return words if len(words) <= 160 else words[:159] + "…"


_DISK, _CLOUD_STORAGE, _BUCKETS, _FSSPEC = Disk(), _CloudStorage(), _Buckets(), _Fsspec()
