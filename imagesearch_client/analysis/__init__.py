"""What needs all vectors of a collection at once: neighbours of everything, duplicates, maps, clusters."""
