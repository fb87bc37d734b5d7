"""How commands talk to their users: results, messages, errors with exit codes, and questions."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

# Exit codes of all commands. 0 is success.
FAILED, WRONG_USAGE, STOPPED, INTERRUPTED = 1, 2, 3, 130
# Number of failures that a message names; it counts the rest.
NAMED = 10
UNBOUNDED = 10_000

# Results go to standard output and everything else to standard error, so that results can be piped.
# Without a terminal, programs read the output: no line is wrapped.
out = Console(width=None if sys.stdout.isatty() else UNBOUNDED)
err = Console(stderr=True, width=None if sys.stderr.isatty() else UNBOUNDED)


def show(text: str) -> None:
    """Print a line of the result to standard output."""
    out.print(Text(text), soft_wrap=True)


def note(text: str, style: str = "") -> None:
    """Print a message to standard error. A terminal breaks its lines between words."""
    err.print(Text(text, style), soft_wrap=not err.is_terminal)


def print_error(message: str, hint: str = "") -> None:
    """Print what is wrong, and in a line of its own what to do."""
    err.print(Text.assemble(("error", "bold red"), " ", message), soft_wrap=not err.is_terminal)
    if hint:
        note(hint)


def fail(message: str, hint: str = "", code: int = FAILED) -> NoReturn:
    """Print an error and end the command."""
    print_error(message, hint)
    raise typer.Exit(code)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def confirm(question: str) -> None:
    """Ask before data is deleted, and end the command if the answer is no or if nobody can answer."""
    if not sys.stdin.isatty():
        fail(f"{question} Standard input is not a terminal, so nobody can confirm.", "Add --yes.", WRONG_USAGE)
    typer.confirm(question, abort=True)
