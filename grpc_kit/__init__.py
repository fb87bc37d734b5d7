"""Shared gRPC plumbing: servers, channels, errors and settings. It knows nothing of what the services do."""
