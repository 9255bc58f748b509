"""A model hub on loopback that serves folders, as far as downloads ask for it."""

import contextlib
import hashlib
import http.server
import json
import pathlib
import threading
from collections.abc import Iterator

import huggingface_hub
import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" * 6 + "c0de"


class _Handler(http.server.BaseHTTPRequestHandler):
    models: dict[str, pathlib.Path]
    asked: list[str]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.asked.append(path)
        for name, folder in self.models.items():
            if path.startswith(f"api/models/{name}"):
                return self._list(path, name, folder)
            if path.startswith(f"{name}/resolve/"):
                return self._give(folder / path.split("/", 4)[4])
        return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def _list(self, path: str, name: str, folder: pathlib.Path) -> None:
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        if "/tree/" in path:
            tree = [
                {
                    "type": "file",
                    "path": f,
                    "size": (folder / f).stat().st_size,
                    "oid": _etag(folder / f),
                }
                for f in files
            ]
            return self._answer(200, json.dumps(tree).encode(), {})
        siblings = [{"rfilename": file} for file in files]
        about = {
            "_id": "1",
            "id": name,
            "sha": COMMIT,
            "siblings": siblings,
            "private": False,
            "tags": [],
        }
        return self._answer(200, json.dumps(about).encode(), {})

    def _give(self, file: pathlib.Path) -> None:
        if not file.is_file():
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._answer(200, file.read_bytes(), {"ETag": f'"{_etag(file)}"'})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def _etag(file: pathlib.Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextlib.contextmanager
def connected(address: str, cache: pathlib.Path, offline: bool = False) -> Iterator[None]:
    """Points the hub's client at an address, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", address)
        files = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        patch.setattr(constants, "HF_HUB_OFFLINE", offline)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        # The client in use was told when it was made whether it may ask anyone.
        huggingface_hub.close_session()
        yield
    huggingface_hub.close_session()


@contextlib.contextmanager
def serving(models: dict[str, pathlib.Path]) -> Iterator[tuple[str, list[str]]]:
    """Serves folders under their ids; yields the address, and the paths that are asked for as they come."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"models": models, "asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
