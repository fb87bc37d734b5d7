"""The conventions of the command line hold for every command."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from imagesearch_cli.app import app

# They take long to import, and only some commands need them.
SLOW = ("PIL", "fsspec", "h5py", "matplotlib", "pyarrow", "scipy", "sklearn", "sqlite3", "tarfile", "tensorflow")
VERBS = {"list", "get", "create", "update", "set", "delete", "check"}


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        elif isinstance(command, TyperCommand):
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_group(app)))


def options(command: TyperCommand) -> dict[str, list[str]]:
    return {parameter.name or "": list(parameter.opts) for parameter in command.params}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(path: tuple[str, ...], option: str) -> None:
    result = CliRunner().invoke(app, [*path, option])
    assert (result.exit_code, "Usage: " in result.stdout) == (0, True)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_shared_options_have_the_same_names_everywhere(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    names = {
        "collection": ["--collection", "-c"],
        "as_json": ["--json"],
        "output": ["--output", "-o"],
        "yes": ["--yes", "-y"],
        "target": ["--target"],
    }
    for name, declared in options(command).items():
        assert declared == names.get(name, declared)
    for parameter in command.params:
        if parameter.name == "collection":
            assert parameter.envvar == "IMAGESEARCH_COLLECTION"
        if "--json" in parameter.opts:
            assert getattr(parameter, "is_flag", False)
        assert getattr(parameter, "help", "").endswith((".", "]")), parameter.name


def test_groups_use_the_same_verbs() -> None:
    assert {path[1] for path in COMMANDS if len(path) == 2} <= VERBS


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_help_fits_the_terminal(width: int) -> None:
    for path in ((), ("search",), ("ingest",), ("collections", "create")):
        result = CliRunner(env={"COLUMNS": str(width), "TERMINAL_WIDTH": str(width)}).invoke(app, [*path, "--help"])
        assert all(len(line) <= width for line in result.stdout.splitlines()), path


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("imagesearch coll", "collections"),
        ("imagesearch collections create x --metric ", "cosine"),
        ("imagesearch ingest --form", "--format"),
        ("imagesearch ingest --format ", "parquet"),
    ],
)
def test_the_shell_completes_commands_options_and_values(words: str, completed: str) -> None:
    environment = {
        "_IMAGESEARCH_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    result = CliRunner(env=environment).invoke(app, [], prog_name="imagesearch")
    assert completed in result.stdout.split()


def test_help_imports_no_slow_package() -> None:
    program = f"import sys, imagesearch_cli.app; print(sorted(set(sys.modules) & set({SLOW})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["search"], ["images", "delete"], []], ids=" ".join)
def test_help_shows_no_type_for_flags(words: list[str]) -> None:
    assert "bool" not in CliRunner().invoke(app, [*words, "--help"]).output
