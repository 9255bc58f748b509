"""What a worker process loads once: models, centers, query vectors, plans.

Beam hands every step its own copy of a DoFn, and one RunInference step its own copy of a model whatever its
identifier says, so that what is expensive to load is shared by name and for the whole process.
"""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_values: "collections.OrderedDict[Hashable, Any]" = collections.OrderedDict()
_locks: dict[Hashable, threading.RLock] = collections.defaultdict(threading.RLock)
_guard = threading.Lock()

# Small artifacts come and go with the rounds; models and centers are few and used all the time.
_MAX_VALUES = 64


def cached(key: Hashable, make: Callable[[], T]) -> T:
    """Returns the process's value for `key`, made by the first caller while the others wait.

    The least recently used value is dropped above 64 of them.
    """
    with _guard:
        lock = _locks[key]
    with lock:
        if key not in _values:
            value = make()
            with _guard:
                _values[key] = value
                while len(_values) > _MAX_VALUES:
                    _values.popitem(last=False)
        with _guard:
            _values.move_to_end(key)
            return _values[key]
