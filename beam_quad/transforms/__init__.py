"""The only Beam of the library: `RunStage` runs one stage of `beam_quad.stages` on workers."""

from beam_quad.transforms.elements import Token
from beam_quad.transforms.stage import DoPieces, RunStage, SumCombineFn, start

__all__ = ["DoPieces", "RunStage", "SumCombineFn", "Token", "start"]
