"""Embedding images: decoding, batching and the rules of both. No gRPC and no TensorFlow."""
