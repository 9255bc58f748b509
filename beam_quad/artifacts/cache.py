"""What a worker process loads once: models, centers, query vectors, plans.

Beam hands every step its own copy of a DoFn, and one RunInference step its own copy of a model whatever its
identifier says, so that what is expensive to load is shared by name and for the whole process.
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
    """Values by name, each made once; the least recently used make room for a new one before it is made."""

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
                self._keep(self._max_values - 1)
            # Outside the guard: making one value may ask for another.
            value = make()
            with self._guard:
                self._values[key] = value
                self._keep(self._max_values)
            return value

    def _keep(self, num_values: int) -> None:
        while len(self._values) > num_values:
            dropped, _ = self._values.popitem(last=False)
            self._locks.pop(dropped, None)


# Small artifacts come and go with the rounds and the groups of arms, of which there are at most 50 and 256. They must
# not drive a model out: a second copy of it may not fit its device.
_artifacts = _Cache(512)
# Stages follow each other, so that one of their models is in use at a time: the pilot's scorer, with a vector for each
# query group, would be on the device beside that of the rounds. The proxy that both are made of stays.
_models = _Cache(1)
_proxies = _Cache(8)


def cached(key: Hashable, make: Callable[[], T]) -> T:
    """Returns the process's value for `key`, a small artifact, made by the first caller while the others wait."""
    return _artifacts.get(key, make)


def once_per_process(
    read: Callable[Concatenate[Owner, Arguments], T],
) -> Callable[Concatenate[Owner, Arguments], T]:
    """Makes a method's value once per process, for each folder that its object reads from and each arguments.

    The object has a `folder`, named by content, or else is hashable itself.
    """

    @functools.wraps(read)
    def reads(owner: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        place = getattr(owner, "folder", owner)
        key = (read.__module__, read.__qualname__, place, args, tuple(sorted(kwargs.items())))
        return cached(key, lambda: read(owner, *args, **kwargs))

    return reads  # type: ignore[return-value]


def cached_model(key: Hashable, make: Callable[[], T]) -> T:
    """Returns the process's model for `key`, made by the first caller while the others wait.

    There is one at a time: that of another key is dropped first. What such models share is cached on its own, as
    proxies are.
    """
    return _models.get(key, make)


def cached_proxy(spec: ProxySpec) -> Proxy:
    """Loads a proxy, once per process."""
    return _proxies.get(spec, lambda: load_proxy(spec))


def proxy_key(spec: ProxySpec, fingerprint: str) -> str:
    """Names a proxy, by where it is stored, where it runs, and its content."""
    return seeding.digest("proxy", spec, fingerprint)
