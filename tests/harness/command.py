"""The `imagesearch` command, as tests run it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner, Result

from imagesearch_cli.app import app

SECONDS = 120
MODULE = (sys.executable, "-m", "imagesearch_cli")


class Command:
    """Runs `imagesearch` with an environment of its own."""

    def __init__(self, environment: Mapping[str, str], *, with_errors: bool = False) -> None:
        """`environment` is all that the command has in a process of its own.

        `with_errors` also returns what a command that succeeds prints to standard error.
        """
        self.environment = {"COLUMNS": "150", "PATH": "/usr/bin:/bin", **environment}
        self._with_errors = with_errors

    def run(self, *arguments: str | Path, code: int = 0, **settings: str) -> Result:
        """Run it in this process, which takes a tenth of the time, and check its exit code."""
        environment = self.environment | settings
        result = CliRunner(env=environment).invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    def __call__(self, *arguments: str | Path, code: int = 0, **settings: str) -> str:
        """Run it in this process. Return what it printed; of a command that fails, standard error too."""
        result = self.run(*arguments, code=code, **settings)
        return result.stdout + result.stderr if code or self._with_errors else result.stdout

    def in_a_process(
        self, *arguments: str | Path, code: int = 0, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run it as a shell does, for what only a process shows."""
        done = subprocess.run(
            [*MODULE, *map(str, arguments)],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Start it in a process, for signals and kills."""
        return subprocess.Popen(
            [*MODULE, *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
