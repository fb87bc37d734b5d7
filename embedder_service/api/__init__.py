"""The gRPC interface: servicer and converters."""
