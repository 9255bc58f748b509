"""What flows between stages and through one, besides pieces."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Token:
    """What flows between two stages: the name of the stage that is finished, and where its artifact is stored."""

    stage: str
    artifact: str


@dataclasses.dataclass(frozen=True)
class Sentinel:
    """Goes through every stage beside its pieces, so that the chain goes on when there is no work."""
