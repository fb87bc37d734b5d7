"""Reads numbers with any number of bits."""


class BitReader:
    """Reads bits, the highest bit of a byte first. Raises IndexError after the last bit."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """Return the next bits as a number."""
        if count > self._left:
            raise IndexError("the data ends within a number")
        self._left -= count
        return self._bits >> self._left & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        """Skip bits."""
        self.read(count)

    def read_exponential(self) -> int:
        """Return the next number in Exp-Golomb code: a number of zeros, a one, and as many bits."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
