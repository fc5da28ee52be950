"""Weights from outside: by name, from files of any published layout, as folders."""
