"""Converts the samples of an image file to upright sRGB pixels over white.

The embedder, the training and the client share this package, so that all of them see the same pixels.
"""
