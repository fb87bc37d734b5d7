"""Adapters of TensorFlow, weights files and Prometheus."""

import os

# TensorFlow reads this when it is imported. 2 hides its notes about its own build.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
