"""Decodes, batches and embeds images, without gRPC and TensorFlow."""
