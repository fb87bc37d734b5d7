"""This machine's settings of pip, in the form in which a build can be given them: as secrets."""

import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# What says where packages come from. Folders of this machine are not there in a build, and left out.
KEYS = ("index-url", "extra-index-url", "trusted-host", "timeout", "proxy", "retries")


def secrets(folder: Path) -> Iterator[str]:
    """The arguments of `docker build`; `folder` gets the files."""
    found = _settings()
    file = configparser.RawConfigParser()
    file["global"] = {key: value for key in KEYS if (value := _remote(found.get(key, "")))}
    path = folder / "pip.conf"
    with path.open("w") as opened:
        file.write(opened)
    yield from ("--secret", f"id=pip_conf,src={path}")
    authorities = found.get("cert") or os.environ.get("SSL_CERT_FILE")
    if authorities and Path(authorities).is_file():
        yield from ("--secret", f"id=pip_ca,src={authorities}")


def _settings() -> dict[str, str]:
    """Of lines such as global.index-url='...'; those of the environment, which come last, win."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = sorted(listed.splitlines(), key=lambda line: line.startswith(":env:"))
    pairs = [line.partition("=") for line in lines]
    return {name.rpartition(".")[2]: value.strip("'") for name, _, value in pairs}


def _remote(value: str) -> str:
    return " ".join(word for word in value.split() if not word.startswith(("file:", "/", ".")))
