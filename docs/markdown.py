"""Read Markdown pages: their links, the anchors of their headings, and the command lines that they show."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from textwrap import dedent

_FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)``` *$", re.DOTALL | re.MULTILINE
)
_CODE = re.compile(r"^ *```.*?^ *``` *$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)\s]+)(?=\))")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block of a page."""

    language: str
    text: str
    line: int  # of the page, from 1


def code_blocks(page: str) -> Iterator[CodeBlock]:
    """Return the fenced blocks of a page in their order."""
    for found in _FENCED.finditer(page):
        text = dedent(found["text"])
        yield CodeBlock(found["language"], text, page.count("\n", 0, found.start()) + 1)


def links(page: str) -> list[str]:
    """Return the targets of the links that lead to files or headings of the repository."""
    return _LINK.findall(_CODE.sub("", page))


def replace_links(page: str, replace: Callable[[str], str]) -> str:
    """Return the page with each target of `links` replaced; code stays as it is."""
    pieces: list[str] = []
    end = 0
    for code in _CODE.finditer(page):
        pieces += [page[end : code.start()], code[0]]
        end = code.end()
    pieces.append(page[end:])
    # Link text may be code, so that a link is never inside one piece: its target is.
    pieces[::2] = [_LINK.sub(lambda target: replace(target[0]), piece) for piece in pieces[::2]]
    return "".join(pieces)


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", page)):
        text = re.sub(r"\]\([^)]*\)", "", heading)
        plain = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        numbered = (f"{plain}-{number}" for number in itertools.count(1))
        found.add(next(name for name in itertools.chain([plain], numbered) if name not in found))
    return found


@dataclass(frozen=True)
class ShellCommand:
    """A command line that a page shows, with the output that the page shows below it."""

    line: str
    output: tuple[str, ...]


def shell_commands(block: CodeBlock) -> list[ShellCommand]:
    """Return the command lines of a block: the lines after `$` in `console`, every line in `sh`."""
    lines = block.text.splitlines()
    if block.language == "sh":
        lines = [f"$ {line}" if line else "" for line in lines]
    found: list[tuple[str, list[str]]] = []
    continues = False
    for line in lines:
        if continues:
            command, output = found[-1]
            found[-1] = (f"{command}\n{line}", output)
        elif line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
        continues = (continues or line.startswith("$ ")) and line.endswith(("\\", "|"))
    return [ShellCommand(command, tuple(output)) for command, output in found]
