"""Runs the command as `python -m imagesearch_cli`."""

from imagesearch_cli.app import main

if __name__ == "__main__":
    main()
