"""Google Cloud Storage, through its own client."""

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from typing import BinaryIO

import google.cloud.storage
from google.api_core.exceptions import NotFound, PreconditionFailed

from beam_quad.artifacts.patterns import Search
from beam_quad.artifacts.store import Ranges, Stat, Store, bucket_of, explained

_PER_THREAD = threading.local()
# Otherwise the client also requests the bucket whenever an object is missing.
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")


class CloudStorage(Store):
    """Google Cloud Storage."""

    def _client(self) -> google.cloud.storage.Client:
        # The client is not documented as thread-safe.
        if not hasattr(_PER_THREAD, "client"):
            # Reading and writing objects needs no project, and there may be no default project.
            _PER_THREAD.client = google.cloud.storage.Client(project=None)
        return _PER_THREAD.client

    def _blob(self, path: str) -> google.cloud.storage.Blob:
        root, key = bucket_of(path)
        return self._client().bucket(root.removeprefix("gs://")).blob(key)

    def stat(self, path: str) -> Stat | None:
        with explained(path):
            blob = self._blob(path)
            try:
                blob.reload()
            except NotFound:
                return None
            return _blob_stat(blob)

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        root, key = bucket_of(search.prefix)
        with explained(search.prefix, needs_bucket=True):
            for blob in self._client().list_blobs(root.removeprefix("gs://"), prefix=key):
                yield f"{root}/{blob.name}", _blob_stat(blob)

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        with explained(path):
            blob = self._blob(path)
            blob.reload()

        def fetch(start: int, end: int) -> bytes:
            # Raw: the client would decompress an object whose Content-Encoding is gzip, and the size and ranges are
            # those of the stored bytes.
            return blob.download_as_bytes(start=start, end=end - 1, raw_download=True)

        return io.BufferedReader(Ranges(path, blob.size, fetch), buffer_bytes)

    def read(self, path: str) -> tuple[bytes, str]:
        with explained(path):
            blob = self._blob(path)
            data = blob.download_as_bytes(raw_download=True)
            return data, str(blob.generation)

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        # To Cloud Storage, generation 0 is that of a missing object: `ABSENT` is the empty string.
        generation = None if over is None else int(over or 0)
        with explained(path, needs_bucket=True):
            try:
                self._blob(path).upload_from_file(
                    spooled, rewind=True, size=spooled.tell(), if_generation_match=generation
                )
            except PreconditionFailed:
                return False
        return True

    def copy(self, source: str, target: str) -> bool:
        with explained(target):
            # A large object takes several requests, each of which goes on where the last stopped.
            copied, token = self._blob(target), None
            while (token := copied.rewrite(self._blob(source), token=token)[0]) is not None:
                pass
        return True

    def delete(self, path: str, over: str | None = None) -> None:
        with explained(path), contextlib.suppress(NotFound, PreconditionFailed):
            self._blob(path).delete(if_generation_match=None if over is None else int(over))


def _blob_stat(blob: google.cloud.storage.Blob) -> Stat:
    # A composed object has no MD5.
    return Stat(blob.size, blob.updated.timestamp(), blob.md5_hash or blob.crc32c or "")
