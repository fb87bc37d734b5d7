"""Milvus in production: values for its Helm chart, a network policy, and the search service's user."""
