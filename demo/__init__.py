"""The demonstration, and both services on one machine."""
