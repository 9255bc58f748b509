"""The only Beam of the library: `Stage` runs one stage of `beam_quad.stages` on workers."""

from beam_quad.transforms.elements import Token
from beam_quad.transforms.stage import DoPieces, Stage, SumCombineFn, start

__all__ = ["DoPieces", "Stage", "SumCombineFn", "Token", "start"]
