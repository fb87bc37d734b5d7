"""What the embedder needs from outside: TensorFlow, and files of weights."""
