"""Pass pip's settings on this machine to an image build, as secrets."""

import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Settings for package indexes. Folders of this machine do not exist in a build and are left out.
KEYS = ("index-url", "extra-index-url", "trusted-host", "timeout", "proxy", "retries")


def secrets(folder: Path) -> Iterator[str]:
    """Yield the arguments of `docker build`, and write their files to `folder`."""
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
    """Return pip's settings, from lines such as global.index-url='...'. Environment variables override files."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = sorted(listed.splitlines(), key=lambda line: line.startswith(":env:"))
    pairs = [line.partition("=") for line in lines]
    return {name.rpartition(".")[2]: value.strip("'") for name, _, value in pairs}


def _remote(value: str) -> str:
    return " ".join(word for word in value.split() if not word.startswith(("file:", "/", ".")))
