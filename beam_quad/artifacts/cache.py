"""Values that a worker process loads once: models, centers, query vectors, plans.

Beam gives every step its own copy of a DoFn, and every RunInference step its own copy of a model whatever its
identifier. Expensive values are therefore shared by name across the whole process.
"""

import collections
import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any, Concatenate, ParamSpec, TypeVar

from beam_quad import seeding
from beam_quad.artifacts.models import fetch_model
from beam_quad.gradients import checkpoints
from beam_quad.gradients.proxy import Proxy, ProxySpec, load_proxy

T = TypeVar("T")
Owner = TypeVar("Owner")
Arguments = ParamSpec("Arguments")


# In every process that loads models for a run.
checkpoints.fetch_with(fetch_model)


class _Cache:
    """Values by name, each made once; the least recently used is evicted before a new one is made."""

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._values: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._locks: dict[Hashable, threading.RLock] = {}
        self._guard = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._guard:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            with self._guard:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key]
                # Before the new value is made: two models may not fit on a device.
                self._keep(self._max_values - 1)
            # Outside the lock, because making one value may request another.
            value = make()
            with self._guard:
                self._values[key] = value
                self._keep(self._max_values)
            return value

    def _keep(self, num_values: int) -> None:
        while len(self._values) > num_values:
            dropped, _ = self._values.popitem(last=False)
            self._locks.pop(dropped, None)


# Small artifacts change with the rounds (at most 50) and the groups of arms (at most 256). They must not evict a model,
# because a second copy of it may not fit on its device.
_artifacts = _Cache(512)
# Stages run in sequence, so only one of their models is in use at a time. Without this limit the pilot's scorer, with a
# vector for each query group, would stay on the device beside the scorer of the rounds. Their shared proxy stays loaded.
_models = _Cache(1)
_proxies = _Cache(8)


def cached(key: Hashable, make: Callable[[], T]) -> T:
    """Returns the process's small artifact for `key`; the first caller makes it while the others wait."""
    return _artifacts.get(key, make)


def once_per_process(
    read: Callable[Concatenate[Owner, Arguments], T],
) -> Callable[Concatenate[Owner, Arguments], T]:
    """Makes a method's value once per process for each folder of its object and each set of arguments.

    The object has a `folder` named by content, or is itself hashable.
    """

    @functools.wraps(read)
    def reads(owner: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        # Stages with one folder read the same files, even if they differ in fields that do not count.
        place = getattr(owner, "folder", owner)
        key = (read.__module__, read.__qualname__, place, args, tuple(sorted(kwargs.items())))
        return cached(key, lambda: read(owner, *args, **kwargs))

    return reads  # type: ignore[return-value]


def cached_model(key: Hashable, make: Callable[[], T]) -> T:
    """Returns the process's model for `key`; the first caller makes it while the others wait.

    The process holds one model at a time: a model of another key is dropped first. Parts that models share, such as
    proxies, are cached separately.
    """
    return _models.get(key, make)


def cached_proxy(spec: ProxySpec) -> Proxy:
    """Loads a proxy, once per process."""
    return _proxies.get(spec, lambda: load_proxy(spec))


def proxy_key(spec: ProxySpec, fingerprint: str) -> str:
    """Names a proxy by its location, its device and its content."""
    return seeding.digest("proxy", spec, fingerprint)
