"""protos/ is complete for clients in other languages, and has no duplicate names for their generators."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from imagesearch.search.v1 import search_pb2

from protos.generate import PROTOS, STUBS
from protos.languages import faults
from protos.lint import compiled_contracts


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """Return a copy of protos/ without the files for Python."""
    folder = tmp_path / "contracts"
    shutil.copytree(PROTOS, folder, ignore=shutil.ignore_patterns("gen", "*.py", "__pycache__"))
    return folder


def contracts(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))


def compiled(folder: Path) -> FileDescriptorSet:
    """Compile every file alone, like `protoc -I protos`, with the types of protoc itself."""
    output = folder.parent / "compiled.binpb"
    command = [sys.executable, "-I", "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={output}"]
    subprocess.run([*command, *contracts(folder)], cwd=folder, check=True)
    return FileDescriptorSet.FromString(output.read_bytes())


def test_protoc_compiles_the_folder_alone(alone: Path) -> None:
    assert [file.name for file in compiled(alone).file if file.name.startswith("google/rpc/")] == [
        "google/rpc/error_details.proto",
        "google/rpc/status.proto",
    ]


@pytest.mark.parametrize("command", ["build", "lint"])
def test_buf_compiles_the_folder_alone(alone: Path, command: str) -> None:
    buf = Path(sys.executable).parent / "buf"
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HOME": str(alone.parent)}
    done = subprocess.run(
        [buf, command], cwd=alone, env=os.environ | nowhere, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_copied_contracts_have_their_licence(alone: Path) -> None:
    assert "Apache License" in (alone / "LICENSE").read_text()
    notice = (alone / "README.md").read_text()
    for name in contracts(alone):
        if not name.startswith("imagesearch/"):
            assert "Licensed under the Apache License" in (alone / name).read_text()
            assert f"`{name}`" in notice


@pytest.mark.parametrize("package", [status_pb2, error_details_pb2, health_pb2], ids=lambda module: module.__name__)
def test_copied_contracts_equal_those_of_the_services(alone: Path, package: status_pb2) -> None:
    """Compare the copies with the modules of the packages, which the Python stubs use."""
    spoken = FileDescriptorProto()
    package.DESCRIPTOR.CopyToProto(spoken)
    (copy,) = (file for file in compiled(alone).file if file.package == spoken.package and same_file(file, spoken))
    for part in ("message_type", "enum_type", "service"):
        assert names(copy, part) == names(spoken, part)


def test_copied_contracts_have_no_stubs() -> None:
    """Check that no stubs exist for the copies: two different modules of one contract crash the process."""
    assert [path.name for path in STUBS.iterdir() if path.name != "__pycache__"] == ["imagesearch"]
    assert search_pb2.DESCRIPTOR.pool.FindFileByName("google/rpc/status.proto") is status_pb2.DESCRIPTOR


def same_file(one: FileDescriptorProto, other: FileDescriptorProto) -> bool:
    return one.name.rpartition("/")[2] == other.name.rpartition("/")[2]


def names(file: FileDescriptorProto, part: str) -> dict[str, list[str]]:
    members = {"message_type": "field", "enum_type": "value", "service": "method"}[part]
    return {item.name: sorted(member.name for member in getattr(item, members)) for item in getattr(file, part)}


def test_the_contracts_work_in_other_languages() -> None:
    found = compiled_contracts()
    assert len([file for file in found.file if file.name.startswith("imagesearch/")]) == 9
    assert faults(found) == []


def two_files_of_one_name(file: FileDescriptorProto) -> None:
    file.name = "imagesearch/types/v1/image.proto"
    file.options.java_outer_classname = "ImageProto"


def outer_class_of_a_message(file: FileDescriptorProto) -> None:
    file.message_type.add(name="EncodedImageProto")


def reflection_class_of_a_message(file: FileDescriptorProto) -> None:
    file.message_type.add(name="encodedImageReflection")


def or_builder_of_a_message(file: FileDescriptorProto) -> None:
    file.message_type.add(name="RegionOrBuilder")


def service_class_of_a_message(file: FileDescriptorProto) -> None:
    file.service.add(name="Region")


def without_option(name: str) -> Callable[[FileDescriptorProto], None]:
    def change(file: FileDescriptorProto) -> None:
        file.options.ClearField(name)  # type: ignore[arg-type]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (two_files_of_one_name, "2 times the C# file image.cs"),
        (outer_class_of_a_message, "2 times the Java class imagesearch.types.v1.encodedimageproto"),
        (reflection_class_of_a_message, "2 times the C# class imagesearch.types.v1.encodedimagereflection"),
        (or_builder_of_a_message, "2 times the Java class imagesearch.types.v1.regionorbuilder"),
        (service_class_of_a_message, "2 times the C# class imagesearch.types.v1.region"),
        (without_option("csharp_namespace"), "csharp_namespace is ''; it must be 'Imagesearch.Types.V1'"),
        (without_option("go_package"), "go_package is ''; it must be 'imagesearch/types/v1;typesv1'"),
        (without_option("java_multiple_files"), "java_multiple_files is False; it must be True"),
        (without_option("java_outer_classname"), "java_outer_classname is ''; it must be 'EncodedImageProto'"),
        (without_option("java_package"), "java_package is ''; it must be 'imagesearch.types.v1'"),
        (without_option("ruby_package"), "ruby_package is ''; it must be 'Imagesearch::Types::V1'"),
    ],
)
def test_name_clashes_in_other_languages_are_detected(change: Callable[[FileDescriptorProto], None], says: str) -> None:
    found = compiled_contracts()
    (file,) = (file for file in found.file if file.name.endswith("types/v1/encoded_image.proto"))
    change(file)
    assert says in "\n".join(faults(found))
