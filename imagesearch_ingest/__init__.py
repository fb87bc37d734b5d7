"""Bulk loading: sources of images, files of vectors, loads with a ledger, and reindexes."""
