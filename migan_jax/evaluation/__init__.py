"""Figures of whatever any method painted."""
