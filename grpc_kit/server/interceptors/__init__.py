"""What happens round every call, whatever the service is."""
