"""Trains an autoencoder on a folder of images. The embedder can serve its encoder as a model."""
