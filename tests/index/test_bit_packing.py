"""Levels as bytes: which bits stand where, and that nothing is lost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index.late_interaction.codec import pack, unpack


def test_packed_bytes_are_these():
    levels = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]])
    # A byte holds dimensions i and i + 4: 1 + 16 * 5, 2 + 16 * 6, 3 + 16 * 7, 4 + 16 * 15
    assert pack(levels, 4).tolist() == [[81, 98, 115, 244]]
    assert pack(levels % 4, 2).tolist() == [[1 + 4 * 3 + 16 * 1 + 64 * 3, 2 + 4 * 0 + 16 * 2 + 64 * 3]]
    assert pack(levels % 2, 1).tolist() == [[0b11010101]]
    # Three bits: the lower two as above, then the third
    assert pack(levels % 8, 3).tolist() == [[221, 226, 0b11111000]]
    assert pack(torch.tensor([[-128, -1, 0, 1, 127, 0, 0, 0]]), 8).tolist() == [[128, 255, 0, 1, 127, 0, 0, 0]]


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
@given(num_tokens=st.integers(0, 5), eighths=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_unpacking_reverses_packing(nbits, num_tokens, eighths, seed):
    lowest = -128 if nbits == 8 else 0
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(lowest, lowest + 2**nbits, (num_tokens, 8 * eighths), generator=generator)
    codes = pack(levels, nbits)
    assert codes.dtype == torch.uint8 and codes.shape == (num_tokens, eighths * nbits)
    assert torch.equal(unpack(codes, nbits), levels.to(torch.int8))
