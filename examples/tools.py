"""Finds and installs the Debian packages that the languages' clients need."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence

from examples.languages import LANGUAGES

INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends")


def missing_packages(languages: Iterable[str]) -> list[str]:
    """Return the missing Debian packages of these languages, each once."""
    return list(dict.fromkeys(package for name in languages for package in LANGUAGES[name].missing()))


def check_tools(languages: Sequence[str]) -> None:
    """Exit with the names of missing packages, if there are any."""
    lacking = {name: missing for name in languages if (missing := LANGUAGES[name].missing())}
    if not lacking:
        return
    lines = [f"the client in {name} needs these Debian packages: {' '.join(names)}" for name, names in lacking.items()]
    able = [name for name in languages if name not in lacking]
    lines.append("`make examples-tools` installs them")
    if able:
        lines.append(f'`make examples LANGUAGES="{" ".join(able)}"` runs the other clients')
    sys.exit("\n".join(lines))


def install(languages: Sequence[str]) -> None:
    """Install the missing packages. Exits if that is not possible here."""
    packages = missing_packages(languages)
    if packages and (os.geteuid() != 0 or shutil.which("apt-get") is None):
        sys.exit(f"only root can install packages, and on Debian: sudo {' '.join((*INSTALL, *packages))}")
    for step in (("apt-get", "update"), (*INSTALL, *packages)) if packages else ():
        print(" ".join(step), flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(step[:2])} failed:\n{done.stdout}{done.stderr}")
    check_tools(languages)
    print(f"the tools for {', '.join(languages)} are there")
