"""requirements/install.py: uv gets pip's settings, and pip installs if uv fails."""

import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from requirements.install import INSTALLER_LOCK, parse_pip_settings, uv_environment

SCRIPT = INSTALLER_LOCK.with_name("install.py")
UV = Path(sys.executable).with_name("uv")
# Reports the locked version, then fails.
BROKEN_UV = f"""#!/bin/sh
test "$1" = --version && exec {UV} --version
exit 2
"""
# Reports the locked version, then runs for a minute.
SLOW_UV = f"""#!/bin/sh
test "$1" = --version && exec {UV} --version
test "$1" = pip && echo "started as $$" && exec sleep 60
"""


def test_pip_settings_of_a_command_override_global_ones_and_the_environment_overrides_both() -> None:
    listing = """:env:.timeout='7'
download.index-url='https://download.example/simple'
global.index-url='https://global.example/simple'
global.timeout='5'
install.index-url='https://install.example/simple'"""
    assert parse_pip_settings(listing) == {"index-url": "https://install.example/simple", "timeout": "7"}


def test_settings_with_quotes_and_several_lines_are_parsed() -> None:
    listing = (
        """global.extra-index-url='\\nhttps://one.example\\nhttps://two.example'\nglobal.proxy="http://u:it's@proxy\""""
    )
    settings = parse_pip_settings(listing)
    assert settings["proxy"] == "http://u:it's@proxy"
    assert uv_environment(settings)["UV_EXTRA_INDEX_URL"] == "https://one.example https://two.example"


def test_lines_that_are_no_setting_are_ignored() -> None:
    assert parse_pip_settings("\nWARNING: something = strange\nglobal.user='no'") == {"user": "no"}


def test_uv_gets_the_settings_of_pip(tmp_path: Path) -> None:
    settings = {
        "index-url": "https://index.example/simple",
        "find-links": "/wheels\n/more",
        "trusted-host": "one.example two.example",
        "cert": str(tmp_path / "ca.pem"),
        "client-cert": "/etc/client.pem",
        "default-timeout": "180",
        "proxy": "http://proxy.example:3128",
        "constraint": "/etc/constraints.txt",
    }
    assert uv_environment(settings) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INSECURE_HOST": "one.example two.example",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        "SSL_CLIENT_CERT": "/etc/client.pem",
        "ALL_PROXY": "http://proxy.example:3128",
    }
    assert uv_environment({"cert": str(tmp_path)})["SSL_CERT_DIR"] == str(tmp_path)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with pip alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def write_wheel(folder: Path, name: str) -> str:
    """Write the wheel of an empty package; return its line of a lock."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def install(python: Path, lock: Path, settings: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the script with these settings of pip alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "UV_CACHE_DIR": str(lock.parent / "cache"), **settings}
    return subprocess.run(
        [python, SCRIPT, lock], env=environment, capture_output=True, text=True, check=False, timeout=150
    )


def give_uv(python: Path, kind: str) -> None:
    """Install into an environment the locked uv, a failing or slow uv, or no uv."""
    uv = python.with_name("uv")
    uv.unlink(missing_ok=True)
    if kind == "uv":
        uv.symlink_to(UV)
    elif kind != "no uv":
        uv.write_text({"broken uv": BROKEN_UV, "slow uv": SLOW_UV}[kind])
        uv.chmod(0o755)


@pytest.mark.parametrize("place", ["index", "links"])
@pytest.mark.parametrize("kind", ["uv", "broken uv", "no uv"])
def test_a_locked_package_is_installed(kind: str, place: str, python: Path, tmp_path: Path) -> None:
    name = f"tiny_{kind.replace(' ', '_')}_{place}"
    lock = tmp_path / "some.lock"
    page = tmp_path / "simple" / name.replace("_", "-")
    page.mkdir(parents=True)
    lock.write_text(write_wheel(page, name))
    (page / "index.html").write_text(f'<a href="{name}-1.0-py3-none-any.whl">it</a>')
    links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(page)}
    index = {"PIP_INDEX_URL": (tmp_path / "simple").as_uri()}
    give_uv(python, kind)
    done = install(python, lock, links if place == "links" else index)
    assert done.returncode == 0, done.stdout + done.stderr
    program = f"import importlib.metadata as m, {name}; print(m.distribution('{name}').read_text('INSTALLER'))"
    installer = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert installer == ("uv" if kind == "uv" else "pip")
    assert ("which takes longer" in done.stdout) == (kind != "uv")


@pytest.mark.parametrize("kind", ["uv", "no uv"])
def test_a_file_with_a_wrong_hash_is_refused(kind: str, python: Path, tmp_path: Path) -> None:
    name = f"other_{kind.replace(' ', '_')}"
    write_wheel(tmp_path, name)
    lock = tmp_path / "some.lock"
    lock.write_text(f"{name}==1.0 --hash=sha256:{'0' * 64}\n")
    give_uv(python, kind)
    done = install(python, lock, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)})
    assert done.returncode == 1
    assert f"{lock} could not be installed" in done.stderr
    assert subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode != 0


def test_stopping_the_installer_stops_its_child_processes(python: Path, tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("")
    give_uv(python, "slow uv")
    with subprocess.Popen([python, SCRIPT, lock], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        started = next(line for line in process.stdout or () if "started as" in line)
        process.terminate()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == "requirements/install.py: stopped\n"
    assert not Path(f"/proc/{started.split()[-1]}").exists()
