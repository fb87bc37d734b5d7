"""Adapters to Milvus and to the embedder."""
