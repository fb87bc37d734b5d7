"""What the search service needs from outside: Milvus and the embedder."""
