"""Limits of loads, in a module that imports nothing: the command shows them in its help."""

DEFAULT_READERS = 32
MAX_READERS = 1024
