"""Reads numbers of any count of bits."""


class BitReader:
    """Bits of some bytes, the highest one first. Reading behind the end raises IndexError."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """Return the next bits as a number."""
        if count > self._left:
            raise IndexError("the data end within a number")
        self._left -= count
        return self._bits >> self._left & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        """Pass over bits."""
        self.read(count)

    def read_exponential(self) -> int:
        """Return the next number of Exp-Golomb code: as many zeros as bits follow its first one."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
