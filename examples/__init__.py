"""Clients of both services in other languages, and a program that runs and checks them."""
