"""What has to hold of everything under deploy/: `make check-deploy`."""
