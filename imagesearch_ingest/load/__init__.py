"""Bulk loads: sources of images, the ledger that accounts for each of them, and the way into a collection."""
