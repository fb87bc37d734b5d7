"""The order of the two lanes: interactive images go first, and bulk images get a share."""

from embedder_service.core.types import Lane

# Bulk images (or batches) for each interactive one while both lanes wait.
BULK_SHARE = 0.25


class LaneShare:
    """Chooses a lane for each slot, so that neither lane starves the other."""

    def __init__(self, bulk_share: float = BULK_SHARE) -> None:
        """`bulk_share` is the number of bulk slots for each interactive slot while both lanes wait, in 0..1."""
        self._bulk_share = bulk_share
        # Grows with each interactive slot that was taken while bulk waited. At 1 bulk gets the next slot.
        self._bulk_credit = 0.0

    def next_lane(self, *, interactive_waits: bool, bulk_waits: bool) -> Lane:
        """Return the lane that gets the next slot. At least one lane waits."""
        is_bulk = bulk_waits and (not interactive_waits or self._bulk_credit >= 1)
        self._bulk_credit = 0.0 if is_bulk or not bulk_waits else self._bulk_credit + self._bulk_share
        return Lane.BULK if is_bulk else Lane.INTERACTIVE

    def reset(self) -> None:
        """Forget the slots that bulk is still owed."""
        self._bulk_credit = 0.0
