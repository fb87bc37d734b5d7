"""What an image file shows: upright sRGB pixels over white, whatever its samples mean.

The embedder, the training and the client share this package, so that all of them see the same picture.
"""
