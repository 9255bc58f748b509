"""A data set on a hub of its own, as far as huggingface_hub's file system asks for it; reads, and commits with a token."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator

REPOSITORY = "datasets/me/texts"
TOKEN = "hf_token"
_COMMIT = "c0ffee" * 6 + "c0de"


class _Handler(http.server.BaseHTTPRequestHandler):
    held: dict[str, bytes]

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if not path.removeprefix("/api").startswith(f"/{REPOSITORY}"):
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if listed := re.fullmatch(rf"/api/{REPOSITORY}/tree/[^/]+/?(.*)", path):
            folder = f"{listed[1]}/" if listed[1] else ""
            below = [name for name in sorted(self.held) if name.startswith(folder)]
            return self._entries(below) if below else self._no_entry()
        if given := re.fullmatch(rf"/{REPOSITORY}/resolve/[^/]+/(.*)", path):
            return self._give(self.held[given[1]]) if given[1] in self.held else self._no_entry()
        about = {"_id": "1", "id": REPOSITORY.partition("/")[2], "sha": _COMMIT, "private": False}
        return self._answer(200, json.dumps(about).encode())

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "/paths-info/" in self.path:
            asked = urllib.parse.parse_qs(body.decode()).get("paths", [])
            return self._entries([name for name in asked if name in self.held])
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, b"")
        if "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]  # fmt: skip
            return self._answer(200, json.dumps({"files": files}).encode())
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.held[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                self.held.pop(value["path"], None)
        commit = f"http://{self.headers['Host']}/{REPOSITORY}/commit/{_COMMIT}"
        done = {"commitUrl": commit, "commitOid": _COMMIT}
        return self._answer(200, json.dumps(done).encode())

    def _entries(self, names: list[str]) -> None:
        found = [
            {
                "type": "file",
                "path": name,
                "size": len(self.held[name]),
                "oid": hashlib.sha1(self.held[name]).hexdigest(),
            }
            for name in names
        ]
        self._answer(200, json.dumps(found).encode())

    def _give(self, data: bytes) -> None:
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            data, status = data[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None], 206
        self._answer(status, data)

    def _no_entry(self) -> None:
        self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": _COMMIT, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Serves a data set; yields the hub's address, and the files by name."""
    held: dict[str, bytes] = {}
    handler = type("Handler", (_Handler,), {"held": held})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", held
        finally:
            server.shutdown()
