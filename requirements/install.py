"""Install a lock into the environment of the Python that runs this script: with uv, or with pip if uv does not work.

uv is several times faster than pip. It gets pip's own settings (index, links, certificates, proxy), so that a machine
on which pip works needs nothing else. The script needs only the standard library and pip.
"""

import argparse
import ast
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

INSTALLER_LOCK = Path(__file__).with_name("installer.lock")
# Sections of pip's configuration that hold for `pip install`; a later one overrides an earlier one.
SECTIONS = ("global", "install", ":env:")
# Seconds between two lines of progress if the output is not a terminal.
PROGRESS_SECONDS = 15
# Lines of uv that say nothing new: the lock names the packages already.
HIDDEN_LINES = (" + ", " - ", " ~ ", "Using Python")
# uv's variable for each setting of pip that both have.
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "keyring-provider": "UV_KEYRING_PROVIDER",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Return pip's settings for `pip install`, from the output of `pip config list`."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that give uv the settings of pip."""
    # pip takes the best version of all indexes; uv by default looks only into the first index that has the package.
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for name, variable in UV_VARIABLES.items():
        if settings.get(name):
            separator = "," if name == "find-links" else " "
            variables[variable] = separator.join(settings[name].split())
    certificates = settings.get("cert")
    if certificates:
        variables["SSL_CERT_DIR" if Path(certificates).is_dir() else "SSL_CERT_FILE"] = certificates
    return variables


def read_pip_settings() -> dict[str, str]:
    """Ask pip for its settings, from its files and from the environment."""
    listing = subprocess.run([*pip(), "config", "list"], capture_output=True, text=True, check=False)
    return parse_pip_settings(listing.stdout)


def pip(*arguments: str) -> list[str]:
    """Return a command of this environment's pip."""
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> bool:
    """Run a command that shows its progress; return whether it succeeded.

    On a terminal it draws its own progress. Elsewhere its lines are passed on, with a line now and then in between.
    """
    if sys.stdout.isatty() and sys.stderr.isatty():
        return subprocess.run(command, env=environment, check=False).returncode == 0
    done = threading.Event()
    threading.Thread(target=report_progress, args=(done,), daemon=True).start()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            for line in process.stdout or ():
                if not line.startswith(HIDDEN_LINES):
                    print(f"  {line.rstrip()}", flush=True)
        except BaseException:
            process.kill()
            raise
        finally:
            done.set()
    return process.returncode == 0


def report_progress(done: threading.Event) -> None:
    """Print every few seconds how long it has taken, until `done` is set."""
    began = time.monotonic()
    while not done.wait(PROGRESS_SECONDS):
        print(f"  still installing after {time.monotonic() - began:.0f} s", flush=True)


def find_uv() -> Path | None:
    """Return the locked version of uv, installed into this environment if it is missing; None if it cannot be had."""
    uv = Path(sys.executable).with_name("uv")
    if not has_locked_version(uv):
        print("Installing uv, which installs the other packages", flush=True)
        run(pip("install", "--require-hashes", "--requirement", str(INSTALLER_LOCK)))
    return uv if has_locked_version(uv) else None


def has_locked_version(uv: Path) -> bool:
    """Return whether `uv` is the version that the lock names, and runs on this machine."""
    locked = re.search(r"^uv==([^\s\\;]+)", INSTALLER_LOCK.read_text(), re.MULTILINE)
    try:
        version = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        return False
    return locked is not None and version[1:2] == [locked.group(1)]


def on_another_disk(uv: Path) -> bool:
    """Return whether uv's cache and this environment are on different disks, so that files cannot be linked."""
    shown = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=False).stdout.strip()
    cache = Path(shown)
    while not cache.exists():
        cache = cache.parent
    return cache.stat().st_dev != Path(sys.prefix).stat().st_dev


def install_with_uv(steps: Sequence[Sequence[str]]) -> bool:
    """Install with uv; return whether all steps succeeded."""
    uv = find_uv()
    if uv is None:
        print("uv cannot be installed here; pip installs the packages, which takes longer", flush=True)
        return False
    variables = uv_environment(read_pip_settings())
    if on_another_disk(uv):
        variables["UV_LINK_MODE"] = "copy"
    # Variables of uv that are set already win over pip's settings.
    theirs = {name: value for name, value in os.environ.items() if name.startswith("UV_")}
    environment = {**os.environ, **variables, **theirs}
    if all(run([str(uv), "pip", "install", "--python", sys.executable, *step], environment) for step in steps):
        return True
    print("uv failed; pip tries the same, which takes longer", flush=True)
    return False


def main() -> None:
    """Install what the command line names; exit with 1 if neither uv nor pip can."""
    parser = argparse.ArgumentParser(prog="requirements/install.py", description=__doc__)
    parser.add_argument("lock", help="file of exact versions with hashes")
    parser.add_argument("--project", help="folder of a project to install in editable mode, after the lock")
    parser.add_argument("--size", default="", help="size of the packages, to print")
    options = parser.parse_args()
    steps = [["--require-hashes", "--requirement", options.lock]]
    if options.project:
        steps.append(["--no-deps", "--no-build-isolation", "--editable", options.project])
    began = time.monotonic()
    print(f"Installing {options.lock} into {sys.prefix}" + (f": {options.size}" if options.size else ""), flush=True)
    if not install_with_uv(steps) and not all(run(pip("install", *step)) for step in steps):
        sys.exit(f"requirements/install.py: {options.lock} could not be installed; the reason is above")
    print(f"Installed in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    # So that the installer is stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("requirements/install.py: stopped")
