"""Find contracts from which generators of other languages make no code: missing options and duplicate names.

protoc writes a file `Image.cs` for each image.proto and ignores its folder. Java and C# put all messages of a package
into one namespace, with one class for each file.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

OWN = "imagesearch/"


def faults(contracts: FileDescriptorSet) -> list[str]:
    """Return a sentence for each fault; empty if every language can generate code from the contracts."""
    options = [fault for file in contracts.file if file.name.startswith(OWN) for fault in _options(file)]
    files = _repeated("C# file", (f"{name}.cs" for file in contracts.file for name in _csharp_files(file)))
    java = _repeated("Java class", (name for file in contracts.file for name in _java_classes(file)))
    csharp = _repeated("C# class", (name for file in contracts.file for name in _csharp_classes(file)))
    return [*options, *files, *java, *csharp]


def _options(file: FileDescriptorProto) -> Iterator[str]:
    parts = file.package.split(".")
    wanted = {
        "csharp_namespace": ".".join(part.capitalize() for part in parts),
        "go_package": f"{'/'.join(parts)};{''.join(parts[1:])}",
        "java_multiple_files": True,
        "java_outer_classname": f"{_pascal(file)}Proto",
        "java_package": file.package,
        "ruby_package": "::".join(part.capitalize() for part in parts),
    }
    for name, value in wanted.items():
        if getattr(file.options, name) != value:
            yield f"{file.name}: option {name} is {getattr(file.options, name)!r}; it must be {value!r}"


def _repeated(kind: str, names: Iterable[str]) -> list[str]:
    # Some file systems do not distinguish Image.java from image.java.
    counts = Counter(name.lower() for name in names)
    return [f"{count} times the {kind} {name}" for name, count in sorted(counts.items()) if count > 1]


def _pascal(file: FileDescriptorProto) -> str:
    stem = file.name.rpartition("/")[2].removesuffix(".proto")
    return "".join(word[:1].upper() + word[1:] for word in stem.split("_"))


def _csharp_files(file: FileDescriptorProto) -> Iterator[str]:
    yield _pascal(file)
    if file.service:
        yield f"{_pascal(file)}Grpc"


def _java_classes(file: FileDescriptorProto) -> Iterator[str]:
    names = [file.options.java_outer_classname or _pascal(file)]
    names += [name for message in file.message_type for name in (message.name, f"{message.name}OrBuilder")]
    names += [enum.name for enum in file.enum_type]
    names += [f"{service.name}Grpc" for service in file.service]
    return (f"{file.options.java_package or file.package}.{name}" for name in names)


def _csharp_classes(file: FileDescriptorProto) -> Iterator[str]:
    names = [f"{_pascal(file)}Reflection"]
    names += [item.name for kind in (file.message_type, file.enum_type, file.service) for item in kind]
    return (f"{file.options.csharp_namespace or file.package}.{name}" for name in names)
