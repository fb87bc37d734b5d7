"""Webdataset's samples: consecutive members of an archive that share their name up to its first dot."""

import dataclasses
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from imagesearch_client.sources.items import Fault, Item
from imagesearch_client.sources.values import attributes_of, is_integer, json_object
from imagesearch_client.types import AttributeValue

# What gives a sample's images their attributes.
SIBLINGS = frozenset({"json", "cls", "txt", "caption"})
MAX_SIBLING = 2**20
# Beyond these, members with the same beginning are no sample, and are not kept until its end.
MAX_IMAGES = 64
MAX_HELD = 64 * 2**20


def split_name(member: str) -> tuple[str, str]:
    """The key of a member's sample, and what of its name is behind the first dot, in small letters."""
    folder, name = posixpath.split(member)
    key, _, extension = name.partition(".")
    return (posixpath.join(folder, key), extension.lower()) if key else (member, "")


@dataclass
class Sample:
    """The images of one sample, and what the members beside them say of these."""

    key: str
    names: Mapping[str, str]
    """The attributes that JSON fields become where these have other names."""
    images: list[Item] = field(default_factory=list)
    siblings: dict[str, bytes] = field(default_factory=dict)
    held: int = 0
    is_cut: bool = False
    """Whether some of its images are gone already, without the attributes that might follow."""
    error: str = ""

    def add_image(self, image: Item) -> Iterator[Item | Fault]:
        """Keeps an image; gives those kept where they become too many."""
        self.images.append(image)
        self.held += image.held
        if len(self.images) >= MAX_IMAGES or self.held >= MAX_HELD:
            yield from self.finish()
            self.is_cut = True

    def add_sibling(self, extension: str, content: bytes | None) -> None:
        """Keeps what is said of the images; None is too much of it."""
        if content is None:
            self.error = f"the .{extension} beside the image has more than {MAX_SIBLING} bytes"
        elif self.is_cut:
            self.error = f"the .{extension} comes after more images of its name than are kept"
        else:
            self.siblings[extension] = content

    def finish(self) -> Iterator[Item | Fault]:
        """Its images, with their attributes."""
        images, self.images, self.held = self.images, [], 0
        if not self.siblings and not self.error:
            yield from images
            return
        try:
            if self.error:
                raise ValueError(self.error)
            attributes = self._attributes()
        except ValueError as error:
            for image in images:
                yield Fault(image.uri, "ROW_INVALID", str(error))
            if self.is_cut and not images:
                yield Fault(self.key, "ROW_INVALID", str(error))
            return
        for image in images:
            yield dataclasses.replace(image, attributes=attributes)

    def _attributes(self) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {}
        for extension, content in sorted(self.siblings.items(), key=lambda sibling: sibling[0] != "json"):
            try:
                attributes |= self._of_sibling(extension, content)
            except ValueError as error:
                raise ValueError(f"the .{extension} beside the image: {error}") from None
        return attributes

    def _of_sibling(self, extension: str, content: bytes) -> dict[str, AttributeValue]:
        if extension == "json":
            return attributes_of(json_object(content), self.names)
        try:
            text = content.decode().strip()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None
        if not text:
            return {}
        return {extension: int(text) if extension == "cls" and is_integer(text) else text}
