"""gRPC code that the services and the client share. `server` has what only servers need."""
