"""The demo, and both services on one machine."""
