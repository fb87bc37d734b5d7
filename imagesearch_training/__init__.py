"""Trains an autoencoder on a folder of images: its encoder is a model that the embedder can serve."""
