"""The page docs/reference/cli.md: every command of `imagesearch` with its arguments and options."""

import re
from collections.abc import Iterator

import typer.main
from typer.core import TyperCommand, TyperGroup

from imagesearch_cli.app import app

INTRODUCTION = """# Command line

`imagesearch COMMAND --help` prints the same. (`make docs` writes this page.)
"""
# What the values of an option are called, by the name that Typer shows.
VALUES = {"str": "TEXT", "int": "INTEGER", "int range": "INTEGER", "float": "NUMBER", "float range": "NUMBER"}


def cli_page() -> str:
    """Return the page, from the Typer application."""
    root = typer.main.get_group(app)
    settings = f"\n## Environment variables\n\n{_text(root.epilog)}\n"
    return "".join([INTRODUCTION, f"\n{_text(root.help)}\n", *_commands(root, "imagesearch"), settings])


def _commands(group: TyperGroup, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        title = f"{path} {name}"
        yield f"\n## {title}\n\n{_text(command.help)}\n"
        if isinstance(command, TyperGroup):
            yield from _commands(command, title)
        elif isinstance(command, TyperCommand):
            yield from _parameters(command, title)


def _parameters(command: TyperCommand, title: str) -> Iterator[str]:
    context = command.context_class(command, info_name=title)
    usage = " ".join([title, *command.collect_usage_pieces(context)])
    usage = re.sub(r"\{(.*?)\}", lambda name: name[1].upper(), usage)
    yield f"\n```text\n{usage}\n```\n\n| argument or option | meaning | default, variable, range |\n|---|---|---|\n"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and parameter.name != "help":
            # Typer appends defaults and ranges in brackets; some help texts have a default of their own there.
            meaning, *added = re.split(r" *\[(?=default:|env var:|required|[\d.]*<?=?x)", record[1])
            cells = [
                f"`{_names(record[0])}`",
                _text(meaning),
                _text("; ".join(each.removesuffix("]") for each in added)),
            ]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _names(names: str) -> str:
    """Return the names of a parameter as Typer shows them, but for the name of its type."""

    def value(kind: re.Match[str]) -> str:
        return kind[1] if "|" in kind[1] else VALUES.get(kind[1], kind[1].upper())

    return re.sub(r"<(?:list\[)?([^\]>]*)\]?>", value, names)


def _text(text: str | None) -> str:
    """Return a help text as Markdown, in which brackets are no links and angle brackets are no tags."""
    return re.sub(r"([\[<*])(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\\\1", text or "")
