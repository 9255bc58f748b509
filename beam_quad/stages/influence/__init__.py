"""Curvature, query vectors, and the score of each row."""
