"""The `imagesearch` command: a module for each of its commands, or for a group of them."""

from imagesearch_cli.app import main

__all__ = ["main"]
