"""The budget's cut, weights, and the selection with its manifest and report."""
