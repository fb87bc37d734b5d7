"""Bulk loads: list the items of sources, write them into a collection, and record each one in a ledger."""
