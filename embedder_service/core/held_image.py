"""Holds on the bytes of admitted images. The release of the last hold frees the bytes."""

from collections.abc import Callable
from dataclasses import dataclass

from embedder_service.core.types import EncodedImage


@dataclass(eq=False)
class _Content:
    image: EncodedImage
    free: Callable[[], None]
    holds: int = 0


class Hold:
    """Keeps the bytes of an admitted image in memory. The bytes are accessible only through a hold."""

    def __init__(self, content: _Content) -> None:
        """Add a hold. `AdmittedImage` creates the first hold, and `copy` further ones."""
        content.holds += 1
        self._content: _Content | None = content

    @property
    def image(self) -> EncodedImage:
        """The image. Raises RuntimeError if the hold is released."""
        return self._held().image

    def copy(self) -> "Hold":
        """Return another hold on the same bytes."""
        return Hold(self._held())

    def release(self) -> None:
        """Release this hold; a second call does nothing."""
        content, self._content = self._content, None
        if content is not None:
            content.holds -= 1
            if not content.holds:
                content.free()

    def _held(self) -> _Content:
        if self._content is None:
            raise RuntimeError("the image was released")
        return self._content


class AdmittedImage:
    """An image that admission has admitted. It counts as in flight until `release`."""

    def __init__(self, image: EncodedImage, free_slot: Callable[[], None], free_bytes: Callable[[], None]) -> None:
        """Hold the image's bytes.

        Args:
            image: the admitted image.
            free_slot: called once, by `release`.
            free_bytes: called once, when the last hold is released.
        """
        self.hold = Hold(_Content(image, free_bytes))
        """The caller's own hold, released by `release` or earlier."""
        self._free_slot: Callable[[], None] | None = free_slot

    def release(self) -> None:
        """Release the slot and the caller's hold, when the caller has its answer or has left."""
        self.hold.release()
        free_slot, self._free_slot = self._free_slot, None
        if free_slot is not None:
            free_slot()
