"""Interceptors that every server uses."""
