"""Ways to cut bytes into the pieces in which a network could bring them. Decided by the bytes alone, so that every input is a whole case."""

from collections.abc import Iterator
from zlib import crc32


def ways_to_cut(data: bytes) -> Iterator[list[bytes]]:
    """In one piece, byte by byte, and two irregular ways in between."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    seed = crc32(data)
    for longest in (3, 17):
        pieces: list[bytes] = []
        at = 0
        while at < len(data):
            seed = crc32(b"%d" % seed)
            end = at + 1 + seed % longest
            pieces.append(data[at:end])
            at = end
        yield pieces
    half = crc32(data) % (len(data) + 1)
    yield [piece for piece in (data[:half], data[half:]) if piece]
