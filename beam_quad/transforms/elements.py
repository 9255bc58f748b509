"""The elements that flow between stages and through them, besides pieces."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Token:
    """The element between two stages: the name of the finished stage and the path of its artifact."""

    stage: str
    artifact: str


@dataclasses.dataclass(frozen=True)
class Sentinel:
    """An extra element of every stage besides its pieces: without it, a chain would end at a stage without work."""
