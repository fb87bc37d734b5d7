"""The tools that each language's client needs, and the commands that build and run it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PROTOS = ROOT / "protos"
JARS = Path("/usr/share/java")
GOPATH = Path("/usr/share/gocode")

# Debian packages, each with a file or a command that shows that it is installed.
PROTOC = {"protobuf-compiler": "protoc"}
NODE = {"nodejs": "node", "npm": "npm"}
GO = {
    **PROTOC,
    "golang-go": "go",
    "protoc-gen-go": "protoc-gen-go",
    "protoc-gen-go-grpc": "protoc-gen-go-grpc",
    "golang-google-grpc-dev": f"{GOPATH}/src/google.golang.org/grpc/clientconn.go",
    "golang-google-genproto-dev": f"{GOPATH}/src/google.golang.org/genproto/googleapis/rpc/status/status.pb.go",
    "golang-google-protobuf-dev": f"{GOPATH}/src/google.golang.org/protobuf/proto/proto.go",
    # gRPC also accepts version 1.3, which cannot encode the messages of protoc-gen-go.
    "golang-github-golang-protobuf-1-5-dev": f"{GOPATH}/src/github.com/golang/protobuf/proto/registry.go",
}
JAVA = {
    **PROTOC,
    "default-jdk-headless": "javac",
    "protobuf-compiler-grpc-java-plugin": "grpc_java_plugin",
    "libgrpc-java": f"{JARS}/grpc-netty.jar",
    "libprotobuf-java": f"{JARS}/protobuf.jar",
    "libguava-java": f"{JARS}/guava.jar",
    "libopencensus-java": f"{JARS}/opencensus-api.jar",
    "libperfmark-java": f"{JARS}/perfmark-api.jar",
    "libgeronimo-annotation-1.3-spec-java": f"{JARS}/geronimo-annotation-1.3-spec.jar",
    "libnetty-java": f"{JARS}/netty-codec-http2.jar",
    "libnetty-tcnative-java": f"{JARS}/netty-tcnative.jar",
    "libnetty-tcnative-jni": "/usr/lib/*/jni/libnetty-tcnative.so",
}
CLASS_PATH = (
    *(f"grpc-{part}" for part in ("api", "context", "core", "netty", "protobuf", "protobuf-lite", "stub")),
    *(f"netty-{part}" for part in ("buffer", "codec", "codec-http", "codec-http2", "common", "handler")),
    *(
        f"netty-{part}"
        for part in ("handler-proxy", "resolver", "tcnative", "transport", "transport-native-unix-common")
    ),
    *("protobuf", "guava", "opencensus-api", "perfmark-api", "geronimo-annotation-1.3-spec"),
)
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class BuildError(Exception):
    """A client could not be built; the message has the output of the tool that failed."""


@dataclass(frozen=True)
class Client:
    """A built client: the command that runs it, without the photographs."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Language:
    """A language with an example client."""

    packages: Mapping[str, str]
    build: Callable[[Path], Client]
    """Builds the client in a folder. Raises BuildError."""

    def missing(self) -> list[str]:
        """Return the names of the Debian packages that are not installed."""
        return [package for package, evidence in self.packages.items() if not exists(evidence)]


def exists(evidence: str) -> bool:
    """Return whether a command is in PATH, or a file that matches an absolute pattern exists."""
    if evidence.startswith("/"):
        return any(Path("/").glob(evidence[1:]))
    return shutil.which(evidence) is not None


def call(*command: str, folder: Path = ROOT, settings: Mapping[str, str] = NO_SETTINGS) -> None:
    """Run a command without output, with additional environment variables. Raises BuildError."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command[:2])} failed:\n{done.stdout}{done.stderr}")


def contracts(*folders: str) -> list[str]:
    """Return the files below these folders of protos/, as protoc names them."""
    return sorted(str(path.relative_to(PROTOS)) for folder in folders for path in (PROTOS / folder).rglob("*.proto"))


def build_node(_: Path) -> Client:
    """Install the locked packages. The client loads the contracts when it runs."""
    call("npm", "ci", folder=EXAMPLES / "node")
    return Client(("node", str(EXAMPLES / "node" / "client.js")))


def build_go(folder: Path) -> Client:
    """Generate the stubs and compile without Go modules, as Debian's packages require."""
    stubs = folder / "src"
    stubs.mkdir()
    call("protoc", f"-I{PROTOS}", f"--go_out={stubs}", f"--go-grpc_out={stubs}", *contracts("imagesearch"))
    program = folder / "client"
    settings = {"GO111MODULE": "off", "GOPATH": f"{folder}:{GOPATH}", "GOFLAGS": "", "CGO_ENABLED": "0"}
    call("go", "build", "-o", str(program), "./examples/go", settings=settings)
    # Debian's grpc-go is older than 1.40, which enabled retries by default.
    return Client((str(program),), {"GRPC_GO_RETRY": "on"})


def build_java(folder: Path) -> Client:
    """Generate the stubs and compile. Debian has no stubs of google.rpc and health, so they are generated too."""
    stubs, classes, libraries = (folder / name for name in ("stubs", "classes", "libraries"))
    for path in (stubs, classes, libraries):
        path.mkdir()
    plugin = f"--plugin=protoc-gen-grpc-java={shutil.which('grpc_java_plugin')}"
    outputs = (f"--java_out={stubs}", f"--grpc-java_out={stubs}")
    call("protoc", f"-I{PROTOS}", plugin, *outputs, *contracts("imagesearch", "google", "grpc/health"))
    jars = ":".join(str(JARS / f"{name}.jar") for name in CLASS_PATH)
    sources = [str(path) for path in (*stubs.rglob("*.java"), *(EXAMPLES / "java").glob("*.java"))]
    call("javac", "-proc:none", "-d", str(classes), "-cp", jars, *sources)
    # Netty expects this library under another name than Debian's, and does not accept a link.
    (library,) = Path("/usr/lib").glob("*/jni/libnetty-tcnative.so")
    shutil.copyfile(library, libraries / "libnetty_tcnative.so")
    return Client(("java", f"-Djava.library.path={libraries}", "-cp", f"{classes}:{jars}", "Client"))


LANGUAGES = {
    "node": Language(NODE, build_node),
    "go": Language(GO, build_go),
    "java": Language(JAVA, build_java),
}
