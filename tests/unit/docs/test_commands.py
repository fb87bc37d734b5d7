"""Every command line in the README and the docs: programs, options and targets exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from docs.markdown import CodeBlock, ShellCommand, code_blocks, shell_commands
from imagesearch_cli.app import app
from tests.harness.pages import (
    NOT_EXECUTED,
    OF_ANOTHER_TEST,
    ROOT,
    page_commands,
    pages_with_commands,
    reason_not_to_execute,
)

MAKEFILE = (ROOT / "Makefile").read_text()
LINES = [(page, command.line) for page in pages_with_commands() for command in page_commands(page)]


def simple_commands(line: str) -> list[list[str]]:
    """Return the words of each command of a line, without the assignments before it."""
    # What a substitution prints is one word.
    lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "SUBSTITUTION", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            found.append([])
        elif found[-1] or not re.match(r"\w+=", word):
            found[-1].append(word)
    return [words for words in found if words]


def check_imagesearch(words: list[str]) -> None:
    """Parse the words as the command does, but not the values of options."""
    group = typer.main.get_group(app)
    context = group.context_class(group, info_name="imagesearch")
    command = group.commands[words[0]]
    if isinstance(command, TyperGroup):
        command, words = command.commands[words[1]], words[1:]
    context = command.context_class(command, info_name=words[0], parent=context)
    known = {name for each in command.params for name in [*each.opts, *each.secondary_opts]} | {"--help", "-", "--"}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    assert not unknown, f"unknown options: {unknown}"
    values, left, _ = command.make_parser(context).parse_args(words[1:])
    assert not left, f"arguments too many: {left}"
    missing = [each.name for each in command.params if each.required and not values.get(each.name or "")]
    assert not missing, f"arguments missing: {missing}"


def check_make(words: list[str]) -> None:
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \?=|\$\({name}\)" if is_variable else rf"^{name}:"
        assert re.search(pattern, MAKEFILE, re.MULTILINE), f"the Makefile has no {name}"


@pytest.mark.parametrize("line", [line for _, line in LINES], ids=[f"{page}: {line[:50]!r}" for page, line in LINES])
def test_programs_options_and_targets_exist(line: str) -> None:
    for program, *words in simple_commands(line):
        name = Path(program).name
        if name == "imagesearch":
            check_imagesearch(words)
        elif name == "make":
            check_make(words)
        elif name in {"python", "python3"} and words[0] == "-m":
            assert importlib.util.find_spec(words[1]), words[1]


@pytest.mark.parametrize(
    "line", ["imagesearch serch x", "imagesearch search x --limits 3", "imagesearch aliases set", "make dmo"]
)
def test_a_wrong_command_is_reported(line: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        test_programs_options_and_targets_exist(line)


def test_every_exception_in_the_list_is_still_needed() -> None:
    others = [line for page, line in LINES if str(page) not in OF_ANOTHER_TEST]
    used = {reason_not_to_execute(line) for line in others} - {None}
    assert used == set(NOT_EXECUTED)
    for test in OF_ANOTHER_TEST.values():
        assert (ROOT / test).is_file()


def test_commands_are_read_with_their_continuations_and_outputs() -> None:
    block = CodeBlock("console", "$ one \\\n    two\n1\n2\n$ three |\n  four\n", 1)
    assert shell_commands(block) == [ShellCommand("one \\\n    two", ("1", "2")), ShellCommand("three |\n  four", ())]
    assert shell_commands(CodeBlock("sh", "one\n\ntwo\n", 1)) == [ShellCommand("one", ("",)), ShellCommand("two", ())]


def test_commands_of_a_block_in_a_list_are_read() -> None:
    (block,) = code_blocks("1. Run:\n\n   ```console\n   $ make check\n   ```\n")
    assert shell_commands(block) == [ShellCommand("make check", ())]
