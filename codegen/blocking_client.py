"""Write the blocking clients from the asynchronous ones: `python -m codegen.blocking_client [--check]`."""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "imagesearch_client"
SOURCE, TARGET = PACKAGE / "aio", PACKAGE / "blocking"
RULES = [
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\b(\w+)AsyncStub\b", r"\1Stub"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\bAsync(Iterable|Iterator)\b", r"\1"),
    (r"  # noqa: ASYNC109.*", ""),
    (r"\bAsyncItems\b", "Items"),
    (r"\bgrpc\.aio\.", "grpc."),
    (r"\b(each|retry|is_serving)_async\b", r"\1"),
    (r"\bin_thread\b", "directly"),
    (r"\bopen_channel\b", "open_blocking_channel"),
    (r"\bimagesearch_client\.aio\b", "imagesearch_client.blocking"),
]


def main() -> None:
    """Write the generated files, or with --check end with 1 if they differ."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if sys.argv[1:] == ["--check"]:
        if stale:
            sys.exit(f"stale: {', '.join(path.name for path in stale)}; run python -m codegen.blocking_client")
        return
    for path in stale:
        path.write_text(generated()[path])


def generated() -> dict[Path, str]:
    """Return the text of each generated file."""
    texts = {}
    for source in sorted(SOURCE.glob("[!_]*.py")):
        text = source.read_text()
        for pattern, replacement in RULES:
            text = re.sub(pattern, replacement, text)
        mark = f"# Generated from aio/{source.name} by python -m codegen.blocking_client; change that file.\n"
        texts[TARGET / source.name] = _formatted(mark + text, TARGET / source.name)
    return texts


def _formatted(text: str, path: Path) -> str:
    for command in (["check", "--select", "I,F401,UP028", "--fix", "--unsafe-fixes", "--quiet"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(ruff, input=text, text=True, capture_output=True, check=True, timeout=60).stdout
    return text


if __name__ == "__main__":
    main()
