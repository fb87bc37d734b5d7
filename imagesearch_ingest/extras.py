"""What some features need beside the client."""


def how_to_install(package: str, extras: str) -> str:
    """What is missing, and what brings it, for people; `extras` are those of this package, such as "client,s3"."""
    return f"{package} is not installed; pip install '.[{extras}]' in the folder of imagesearch's source brings it"
