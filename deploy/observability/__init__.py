"""By what the services are watched: rules with tests, and a dashboard."""
