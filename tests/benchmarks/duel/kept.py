"""Keeps what took long to compute, by its content: many policies, domains and runs share it."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from beam_quad import seeding


@dataclasses.dataclass(frozen=True)
class Kept:
    """A folder of arrays.

    Attributes:
      folder: Where they lie.
      say: Takes a line for each that is computed.
    """

    folder: pathlib.Path
    say: Callable[[str], None]

    def get(
        self, name: str, parts: tuple[object, ...], compute: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """Returns an array, computed once for the same name and parts.

        Args:
          name: What it is, in a few words.
          parts: All that decides it.
          compute: Makes it.
        """
        return self.columns(name, {"": parts}, lambda _: compute()[:, None])[:, 0]

    def columns(
        self,
        name: str,
        parts: Mapping[str, tuple[object, ...]],
        compute: Callable[[Sequence[str]], np.ndarray],
    ) -> np.ndarray:
        """Returns an array of several columns, each computed once; those that are missing are computed together.

        Args:
          name: What it is, in a few words.
          parts: All that decides a column, by its name.
          compute: Makes the columns of the names it is given, [n, num_names, ...].

        Returns:
          The columns in the order of `parts`, [n, num_columns, ...].
        """
        missing = [column for column, own in parts.items() if self.find(name, own) is None]
        if missing:
            began = time.process_time()
            made = compute(missing)
            seconds = time.process_time() - began
            for place, column in enumerate(missing):
                self.put(name, parts[column], made[:, place])
                path = self._path(name, parts[column]).with_suffix(".json")
                path.write_text(json.dumps({"cpu_seconds": round(seconds, 2)}))
            self.say(f"{name}: {seconds:,.0f} s of CPU time")
        return np.stack([np.load(self._path(name, own)) for own in parts.values()], axis=1)

    def find(self, name: str, parts: tuple[object, ...]) -> np.ndarray | None:
        """Returns an array if it was kept."""
        path = self._path(name, parts)
        return np.load(path) if path.exists() else None

    def put(self, name: str, parts: tuple[object, ...], array: np.ndarray) -> None:
        """Keeps an array."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name, parts)
        unfinished = path.with_name(f"unfinished-{path.name}")
        np.save(unfinished, array)
        unfinished.rename(path)

    def seconds(self, name: str, parts: tuple[object, ...]) -> float:
        """Returns the CPU seconds that computing it took, with what was computed together."""
        kept = json.loads(self._path(name, parts).with_suffix(".json").read_text())
        return float(kept["cpu_seconds"])

    def _path(self, name: str, parts: tuple[object, ...]) -> pathlib.Path:
        return self.folder / f"{name.replace(' ', '-')}-{seeding.digest(name, *parts)[:20]}.npy"
