"""The embedder: a gRPC service that turns an encoded image into a vector."""
