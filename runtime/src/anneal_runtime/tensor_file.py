"""How a safetensors file begins, for those who write one piece by piece.

Format (huggingface/safetensors): the header's length as 8 bytes little-endian, the header as JSON padded with spaces to a
multiple of 8, then the tensors' bytes without a gap.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod


@dataclass(frozen=True)
class Spec:
    """A tensor to come: its dtype in the format's words ("F32"), bytes an element, and shape."""

    code: str
    itemsize: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.itemsize * prod(self.shape)


def begin(specs: Mapping[str, Spec]) -> tuple[bytes, dict[str, int]]:
    """Return the file's first bytes, and where in the file each tensor begins: in the order given."""
    ends = list(accumulate((spec.size for spec in specs.values()), initial=0))
    header = {
        name: {"dtype": spec.code, "shape": list(spec.shape), "data_offsets": [start, start + spec.size]}
        for (name, spec), start in zip(specs.items(), ends, strict=False)
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = struct.pack("<Q", len(text)) + text
    return first, {name: len(first) + start for name, start in zip(specs, ends, strict=False)}
