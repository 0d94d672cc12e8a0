"""Nibble order is pinned by values written by hand from TensorRT-LLM's formula; the rest is round trips."""

import numpy as np

from anneal_serving import int4


def test_two_rows_share_a_byte_the_even_row_in_the_low_nibble() -> None:
    nibbles = np.array([[1, -8], [2, 7], [-1, 0], [0, -2]], np.int8)
    # 1 | 2<<4 = 0x21; -8 -> 0x8, 7<<4 -> 0x78; -1 -> 0xF, 0 -> 0x0F; 0, -2 -> 0xE -> 0xE0 = -32
    assert int4.pack(nibbles).tolist() == [[0x21, 0x78], [0x0F, -32]]


def test_unpack_undoes_pack() -> None:
    nibbles = np.random.default_rng(0).integers(-8, 8, (6, 10)).astype(np.int8)
    assert np.array_equal(int4.unpack(int4.pack(nibbles)), nibbles)


def test_rows_are_packed_along_inputs_for_openvino() -> None:
    assert int4.pack_rows(np.array([[1, -1, -8, 7]], np.int8)).tolist() == [[0xF1, 0x78]]


def test_dequantize_multiplies_group_scale_and_input_factor() -> None:
    packed = int4.pack(np.array([[1, 2, 3, 4], [-1, -2, -3, -4]], np.int8))
    scales = np.array([[0.5, 2.0], [1.0, 10.0]], np.float16)
    prequant = np.array([1, 1, 1, 3], np.float16)
    assert int4.dequantize(packed, scales, prequant).tolist() == [[0.5, 1, 6, 24], [-1, -2, -30, -120]]
