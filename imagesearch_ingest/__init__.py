"""Bulk loading: sources of images, vector files, loads with a ledger, and reindexes."""
