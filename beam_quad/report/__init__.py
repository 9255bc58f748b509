"""Reports made from manifests, without Beam, models or files."""

from beam_quad.report.report import render

__all__ = ["render"]
