"""What a gRPC server needs: interceptors, settings, memory budgets, logs, metrics, and a clean stop."""
