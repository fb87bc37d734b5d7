"""Collections, images and searches. No gRPC, no Milvus."""
