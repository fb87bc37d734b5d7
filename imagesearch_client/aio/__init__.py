"""The asynchronous clients, in parts. `codegen` writes the blocking clients from them."""
