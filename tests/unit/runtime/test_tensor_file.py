"""What is written piece by piece after `begin` is a file that safetensors' own reader takes."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from anneal_runtime.tensor_file import Spec, begin


def test_tensors_are_read_back_by_the_librarys_own_reader(tmp_path: Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float16).reshape(2, 3),
        "a": np.asarray(1.5, np.float32),
        "ü": np.arange(5, dtype=np.int8),
    }
    codes = {"b": "F16", "a": "F32", "ü": "I8"}
    first, starts = begin({n: Spec(codes[n], t.itemsize, t.shape) for n, t in tensors.items()})
    whole = first + b"".join(tensor.tobytes() for tensor in tensors.values())
    (tmp_path / "file").write_bytes(whole)
    read = load_file(tmp_path / "file")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)
        assert whole[starts[name] :].startswith(tensor.tobytes())
    assert len(first) % 8 == 0
