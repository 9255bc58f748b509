"""Stages of a refresh: a run that keeps most of an earlier selection."""
