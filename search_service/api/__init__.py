"""Servicers and converters: protobuf messages to plain values and back."""
