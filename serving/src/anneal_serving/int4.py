"""Four-bit weights as TensorRT-LLM's W4A16_AWQ layout stores them, in numpy.

A weight [out, in] is a matrix of signed nibbles q (-8..7) and one scale for every `group` inputs of an
output row: w = q * scale. Two neighbouring rows share a byte: byte[k, j] = q[2k, j] | q[2k+1, j] << 4.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def pack(nibbles: Array) -> Array:
    """Return int8 [out/2, in] from nibbles [out, in] of -8..7; `out` is even."""
    unsigned = nibbles.astype(np.int8, copy=False).view(np.uint8)
    packed: Array = unsigned[1::2] << 4
    packed |= unsigned[0::2] & 0xF
    return packed.view(np.int8)


def unpack(packed: Array) -> Array:
    """Return int8 nibbles [out, in] of -8..7 from `pack`'s bytes [out/2, in]."""
    rows, width = packed.shape
    nibbles = np.empty((2 * rows, width), np.int8)
    # Shifts of a signed type extend the sign: left to the top of the byte, then right, keeps it.
    nibbles[0::2] = (packed << 4) >> 4
    nibbles[1::2] = packed >> 4
    return nibbles


def pack_rows(nibbles: Array) -> Array:
    """Return uint8 [out, in/2] as OpenVINO's i4 keeps it: neighbouring inputs share a byte, low nibble first."""
    unsigned = nibbles.view(np.uint8) & 0xF
    return unsigned[:, 0::2] | unsigned[:, 1::2] << 4


def dequantize(packed: Array, scales: Array, prequant: Array | None = None) -> Array:
    """Return float32 weights [out, in] that act on the layer's unscaled input.

    Args:
        packed: `pack`'s bytes [out/2, in].
        scales: [out, in/group].
        prequant: [in] factors that the runtime multiplies the input by before the product.
    """
    nibbles = unpack(packed)
    rows, width = nibbles.shape
    groups = nibbles.reshape(rows, scales.shape[1], -1) * scales.astype(np.float32)[:, :, None]
    weight: Array = groups.reshape(rows, width)
    return weight if prequant is None else weight * prequant.astype(np.float32)
