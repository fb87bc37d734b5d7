"""Measurements: each is one command, with its peers in the same run."""
