"""Messages for packages that are not installed."""


def how_to_install(package: str, extras: str) -> str:
    """Return which package is missing, and the command that installs it. `extras` are such as "cli,s3"."""
    return f"{package} is not installed; run pip install '.[{extras}]' in the folder of imagesearch's source"
