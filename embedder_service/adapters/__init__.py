"""What the embedder needs from outside: TensorFlow, and files of weights."""

import os

# Before TensorFlow is imported anywhere: its own notes on how it was built are no news to an operator.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
