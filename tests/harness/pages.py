"""The command lines that the README and the docs show."""

import re
from collections.abc import Iterator
from pathlib import Path

from docs.markdown import ShellCommand, code_blocks, shell_commands

ROOT = Path(__file__).parents[2]
PAGES = [
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "protos/*.md")
    for path in sorted(ROOT.glob(pattern))
]
# Pages whose commands another test executes, and that test.
OF_ANOTHER_TEST = {"docs/get-started/from-articles.md": "tests/e2e/test_tutorials.py"}
# Commands that tests do not execute as the page shows them, and why. A command must match one of these patterns from
# its beginning, or tests/e2e/test_page_commands.py executes it.
NOT_EXECUTED = {
    r"docker |kind |kubectl |helm ": "needs Docker or a cluster: `make test-containers` and `make check-deploy`",
    r"(EMBEDDER_MODELS=\S+ )?make ": "starts services, installs tools: tests/e2e/test_demo.py, test_up.py, .ci/run",
    r"(EMBEDDER_MODELS=\S+ )?python -m embedder_service": "starts a service: tests/e2e/test_up.py",
    r".*--model (vgg16-rmac|groceries)": "the embedder of the tests does not serve it: tests/integration/embedder",
    r"(\.venv/bin/)?python -m deploy\.milvus\.role": "needs a Milvus server: tests/unit/search/test_milvus_role.py",
    r"cp -r imagesearch/deploy": "deploy/checks builds overlays outside the repository",
    r"pip install ": "installs packages: tests/install/test_extras.py",
    r"protoc |buf |mkdir stubs|\(cd stubs|go mod ": "needs tools of a language: `make examples`, tests/unit/protos",
    r".*grpcurl ": "needs grpcurl: tests/unit/grpc_kit/test_reflection.py reads the contracts in the same way",
    r".*(s3|gs)://": "needs a bucket: tests/integration/ingest",
    r"imagesearch train-autoencoder ": "trains for minutes: tests/e2e/test_tutorials.py",
    r"\. \.venv/bin/activate": "the tests run in that environment",
}


def page_commands(page: Path) -> list[ShellCommand]:
    """Return the command lines of a page."""
    blocks = code_blocks((ROOT / page).read_text())
    return [command for block in blocks if block.language in {"console", "sh"} for command in shell_commands(block)]


def python_examples(page: Path) -> list[str]:
    """Return the Python code of a page."""
    return [block.text for block in code_blocks((ROOT / page).read_text()) if block.language == "python"]


def reason_not_to_execute(line: str) -> str | None:
    """Return the pattern of NOT_EXECUTED that a command line matches."""
    return next((pattern for pattern in NOT_EXECUTED if re.match(pattern, line, re.DOTALL)), None)


def pages_with_commands() -> Iterator[Path]:
    """Return the pages that show command lines."""
    return (page for page in PAGES if page_commands(page))
