"""The search service: a gRPC service that keeps vectors in Milvus and finds the images most like a query."""
