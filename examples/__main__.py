"""Runs the example clients against both services: `python -m examples [--install] [node] [go] [java]`.

Each client is built, and runs four times: over TLS with a token, with a wrong token, with the certificate of another
authority, and while the search service cannot reach the embedder. The program checks what the client prints. The stubs
come from the folder protos/ alone. Without languages, all clients run.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from demo.service_process import StartError
from examples.languages import LANGUAGES, PROTOC, ROOT, BuildError, Client, call, contracts, exists
from examples.runs import Runs, faults_of_reflection, write_photos
from examples.stack import running_stack
from examples.tools import check_tools, install

BUILDS = ROOT / ".tools" / "examples"
# protoc itself can generate code for these languages. There is no example client in them.
OTHERS = ("csharp", "php", "ruby")


def empty_folder(name: str) -> Path:
    """Return a new folder for a build."""
    folder = BUILDS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def build(languages: Sequence[str]) -> dict[str, Client]:
    """Build every client, and the messages of further languages. Raises BuildError."""
    clients = {}
    for name in languages:
        began = time.monotonic()
        clients[name] = LANGUAGES[name].build(empty_folder(name))
        print(f"built the client in {name} in {time.monotonic() - began:.0f} s", flush=True)
    if all(exists(command) for command in PROTOC.values()):
        for name in OTHERS:
            call("protoc", "-Iprotos", f"--{name}_out={empty_folder(name)}", *contracts("imagesearch"))
    return clients


def faults_by_language(clients: Mapping[str, Client]) -> dict[str, list[str]]:
    """Start the stack, and run every client. Raises StartError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder)
        print("starting both services", flush=True)
        with running_stack(folder) as stack:
            found = {"reflection": list(faults_of_reflection(stack))}
            runs = {language: Runs(client, stack, folder) for language, client in clients.items()}
            for language, each in runs.items():
                print(f"== {language}", flush=True)
                found[language] = list(each.faults())
            stack.link.cut()
            for language, each in runs.items():
                print(f"== {language}, while the search service cannot reach the embedder", flush=True)
                found[language] += each.faults_of_outage()
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m examples", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help="node, go or java (default: all)")
    parser.add_argument("--install", action="store_true", help="install missing tools (Debian, as root) and exit")
    options = parser.parse_args()
    languages = options.languages or list(LANGUAGES)
    if unknown := [name for name in languages if name not in LANGUAGES]:
        parser.error(f"there is no client in {', '.join(unknown)}; choose from {', '.join(LANGUAGES)}")
    if options.install:
        install(languages)
        return
    check_tools(languages)
    try:
        found = faults_by_language(build(languages))
    except (BuildError, StartError) as error:
        sys.exit(f"examples: {error}")
    for language, faults in found.items():
        for fault in faults:
            print(f"FAILED {language}: {fault}")
    if any(found.values()):
        sys.exit(1)
    print(f"every client works: {', '.join(languages)}")


if __name__ == "__main__":
    main()
