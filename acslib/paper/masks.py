"""Which images a network has right, as a record keeps them: one bit an image."""

import base64
import zlib

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def packed(mask: Mask) -> str:
    """A mask (n,) as text: its bits, eight in a byte, deflated, in base64, after n and a colon."""
    bits = zlib.compress(np.packbits(mask.astype(bool)).tobytes(), 9)
    return f"{len(mask)}:{base64.b64encode(bits).decode()}"


def unpacked(text: str) -> Mask:
    """The mask (n,) of booleans that `packed` has made a text of."""
    n, _, bits = text.partition(":")
    found = np.frombuffer(zlib.decompress(base64.b64decode(bits)), np.uint8)
    return np.unpackbits(found, count=int(n)).astype(bool)
