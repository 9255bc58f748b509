"""Blocks, candidates, rounds of the bandit, and what they select."""
