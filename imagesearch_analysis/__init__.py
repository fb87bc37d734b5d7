"""Analyses of a whole collection on a snapshot: neighbors, duplicates, maps, clusters, evaluation."""
