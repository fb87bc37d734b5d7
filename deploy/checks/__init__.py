"""Checks of everything under deploy/, for `make check-deploy`."""
