"""Runs the command as `python -m imagesearch_client.cli`."""

from imagesearch_client.cli.app import main

if __name__ == "__main__":
    main()
