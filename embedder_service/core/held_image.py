"""The bytes of admitted images, which are free when nobody can reach them any more."""

from collections.abc import Callable
from dataclasses import dataclass

from embedder_service.core.types import EncodedImage


@dataclass(eq=False)
class _Content:
    image: EncodedImage
    free: Callable[[], None]
    holds: int = 0


class Hold:
    """Keeps the bytes of an admitted image. They can be reached through a hold alone.

    When the last hold on them is released, they are dropped and admission may give their room to other images.
    """

    def __init__(self, content: _Content) -> None:
        """Adds a hold; `AdmittedImage` makes the first one, `copy` further ones."""
        content.holds += 1
        self._content: _Content | None = content

    @property
    def image(self) -> EncodedImage:
        """The image, until the hold is released."""
        return self._held().image

    def copy(self) -> "Hold":
        """Return another hold on the same bytes."""
        return Hold(self._held())

    def release(self) -> None:
        """End this hold; once it has ended, nothing more happens."""
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
        """Holds the image's bytes.

        Args:
            image: what was admitted.
            leave: is called once, when the caller leaves.
            free: is called once, when nobody holds the bytes any more.
        """
        self.hold = Hold(_Content(image, free))
        """The caller's own hold, which ends when the caller leaves, or earlier."""
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Release the pending image and the caller's hold: the caller was answered, or is gone."""
        self.hold.release()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()
