"""Counts what would be launched on a GPU."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        self.count += not function.is_view and name not in ("detach", "empty", "_unsafe_view")
        return function(*args, **(kwargs or {}))


def count_launches(compute: Callable[[], object]) -> int:
    """Counts the operations that a computation comes down to, views and empty tensors apart: about a kernel each."""
    with _Launches() as launches:
        compute()
    return launches.count
