"""Cost estimates of runs, computed from counts alone, without Beam, models or files."""
