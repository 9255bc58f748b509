"""What a run will take, from counts alone: nothing here knows Beam, a model or a file."""
