"""Holds on the bytes of admitted images. The bytes are released with the last hold."""

from collections.abc import Callable
from dataclasses import dataclass

from embedder_service.core.types import EncodedImage


@dataclass(eq=False)
class _Content:
    image: EncodedImage
    free: Callable[[], None]
    holds: int = 0


class Hold:
    """Keeps the bytes of an admitted image. Only a hold gives access to them.

    The release of the last hold drops the bytes, and admission may use their share for other images.
    """

    def __init__(self, content: _Content) -> None:
        """Add a hold. `AdmittedImage` creates the first hold, and `copy` further ones."""
        content.holds += 1
        self._content: _Content | None = content

    @property
    def image(self) -> EncodedImage:
        """The image. Raises RuntimeError once the hold is released."""
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
    """An image that admission has admitted. It counts as pending until its caller leaves."""

    def __init__(self, image: EncodedImage, leave: Callable[[], None], free: Callable[[], None]) -> None:
        """Hold the image's bytes.

        Args:
            image: the admitted image.
            leave: called once, when the caller leaves.
            free: called once, when the last hold is released.
        """
        self.hold = Hold(_Content(image, free))
        """The caller's own hold, released when the caller leaves or earlier."""
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Release the slot and the caller's hold: the caller has its answer, or has left."""
        self.hold.release()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()
