"""Monitoring of the services: rules with tests, and a Grafana dashboard."""
