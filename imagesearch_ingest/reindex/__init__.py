"""Reindexes: copy a collection with another index, metric or model, and move its aliases to the copy."""
