"""Milvus in production: values for its Helm chart, its network policy, and the user of the search service."""
