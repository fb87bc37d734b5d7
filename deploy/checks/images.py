"""Check that programs read the variables of their images, and accept the values."""

import os
import re
from collections.abc import Iterator
from unittest import mock

from pydantic import ValidationError

from deploy.checks.consistency import SETTINGS
from deploy.checks.tools import ROOT
from grpc_kit.server.settings import unknown_settings
from imagesearch_cli.environment import problems as command_problems

FOLDER = ROOT / "deploy" / "docker"


def problems() -> Iterator[str]:
    """Yield each problem."""
    for path in sorted(FOLDER.glob("*.Dockerfile")):
        yield from (f"{path.name}: {problem}" for problem in of_image(path.stem, path.read_text()))


def of_image(component: str, dockerfile: str) -> Iterator[str]:
    """Yield the problems of one image's variables."""
    instructions = dockerfile.replace("\\\n", " ").splitlines()
    values = dict(re.findall(r"(\w+)=(\S+)", " ".join(line for line in instructions if line.startswith("ENV "))))
    settings = SETTINGS.get(component)
    if settings is None:
        yield from command_problems(values)
        return
    with mock.patch.dict(os.environ, values, clear=True):
        yield from unknown_settings(settings)
        try:
            settings()
        except ValidationError as error:
            yield str(error)
