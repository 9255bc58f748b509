"""Influence-based selection of pre-training data at web scale, as Apache Beam pipelines."""
