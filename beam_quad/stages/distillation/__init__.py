"""Landmarks, their influence on each target, and what is propagated from them."""
