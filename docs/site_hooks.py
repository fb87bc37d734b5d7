"""Hooks of MkDocs: what the site needs that the pages of the repository do not have.

- Pages link to files of the repository outside docs/. The site shows these files below repository/.
- The decisions in docs/adr/ are added to the navigation.
- A notebook becomes a page.
- A page that loads a script, a style or an image from another host fails the build: the site works offline.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.markdown import links, replace_links

ROOT = Path(__file__).parents[1]
# Languages of the highlighter by suffix, if the suffix is not its name already.
LANGUAGES = {".yml": "yaml", ".py": "python", ".env": "ini", "": "text"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation's entry `Decisions` with the pages of docs/adr/."""
    decisions = [f"adr/{path.name}" for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    for section in config.nav or ():
        if "Decisions" in section:
            section["Decisions"] = decisions
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks, and the repository's files that pages link to, directly or through each other."""
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        source = notebook.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, source, content=notebook_page(notebook)))
    pending = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while pending:
        for target in linked(*pending.pop()):
            if files.get_file_from_path(site_page(target)) is None:
                content = repository_page(target)
                files.append(File.generated(config, site_page(target), content=content))
                pending.append((target, content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let the page's links lead to pages of the site."""
    source = page.file.src_uri
    path = source.removeprefix("repository/") if source.startswith("repository/") else f"docs/{source}"
    folder = PurePosixPath(source).parent

    def in_site(target: str) -> str:
        file, sharp, anchor = target.partition("#")
        if not file:
            return target
        page_of_file = site_page(os.path.normpath(PurePosixPath(path).parent / file))
        return os.path.relpath(page_of_file, folder) + sharp + anchor

    return replace_links(markdown, in_site)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that loads something from another host."""
    loaded = re.search(
        r"<(?:script|img|iframe|link(?! rel=\"canonical\"))[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*", output
    )
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads something from another host: {loaded[0]}")
    return output


def linked(path: str, markdown: str) -> Iterator[str]:
    """Return the paths outside docs/, relative to the repository, that a page links to."""
    for link in links(markdown):
        target = os.path.normpath(PurePosixPath(path).parent / link.partition("#")[0])
        if (ROOT / target).exists() and site_page(target).startswith("repository/"):
            yield f"{target}/README.md" if (ROOT / target).is_dir() else target


def site_page(path: str) -> str:
    """Return the page of the site, or the file of docs/, that shows a path of the repository."""
    if (ROOT / path).is_dir():
        path += "/README.md"
    if path.startswith("docs/") and Path(path).suffix in {".md", ".ipynb", ".jpg", ".png", ".svg"}:
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def repository_page(path: str) -> str:
    """Return the Markdown that shows a file of the repository; for a README.md that is not there, names of files."""
    file = ROOT / path
    if file.name == "README.md" and not file.exists():
        names = sorted(each.name for each in file.parent.iterdir() if each.name[0] not in "._")
        return "\n- ".join([f"# {file.parent.relative_to(ROOT)}\n", *(f"`{name}`" for name in names)])
    if file.suffix == ".md":
        return file.read_text()
    language = LANGUAGES.get(file.suffix, file.suffix[1:])
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{language}\n{file.read_text()}\n````\n"


def notebook_page(path: Path) -> str:
    """Return the Markdown of a notebook, with the outputs that it holds."""
    parts: list[str] = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        for output in cell.get("outputs", ()):
            shown = output.get("data", {"text/plain": output.get("text", "")})
            html = shown.get("text/html")
            parts.append("".join(html) if html else f"```text\n{''.join(shown['text/plain'])}\n```")
    return "\n\n".join(parts)
