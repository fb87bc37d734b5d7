"""Clients of both services in other languages, and what runs and checks them."""
