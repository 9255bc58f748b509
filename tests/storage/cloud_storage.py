"""The emulator of Cloud Storage with what it lacks: conditions on generations, and the header that tells them."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_ONE_AT_A_TIME = threading.Lock()


def _name(request: Any, storage: Any) -> str:
    if "upload_id" in request.query:
        return str(storage.get_resumable_file_obj(request.query["upload_id"][0])["name"])
    if "object_id" in request.params:
        return str(request.params["object_id"])
    # Of an upload in parts, and of one by a single request.
    return str(request.data.get("meta", request.data)["name"])


def _generation(request: Any, storage: Any) -> str:
    try:
        found = storage.get_file_obj(request.params["bucket_name"], _name(request, storage))
    except NotFound:
        return "0"
    return str(found["generation"])


def _on_condition(handle: Callable[..., Any]) -> Callable[..., Any]:
    def checked(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
        wanted = request.query.get("ifGenerationMatch")
        with _ONE_AT_A_TIME:
            if wanted is not None and wanted[0] != _generation(request, storage):
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
            handle(request, response, storage, *args, **kwargs)

    return checked


def _telling(handle: Callable[..., Any]) -> Callable[..., Any]:
    def told(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
        response["X-Goog-Generation"] = _generation(request, storage)
        handle(request, response, storage, *args, **kwargs)

    return told


if __name__ == "__main__":
    # Before the server's table of them is made.
    for name in ("insert", "upload_partial", "delete"):
        setattr(objects, name, _on_condition(getattr(objects, name)))
    objects.download = _telling(objects.download)

    from gcp_storage_emulator.__main__ import main

    main()
