"""Packing: n-bit codes as one stream of bits, least significant first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import FormatError
from mixq.formats import packed_bytes
from mixq.quantize.packing import PACKED_WIDTHS, pack, unpack

law = settings(derandomize=True, deadline=None, max_examples=100)
widths = pytest.mark.parametrize("bits", PACKED_WIDTHS, ids="{}-bit".format)


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, list[int]]:
    bits = draw(st.sampled_from(PACKED_WIDTHS))
    return bits, draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=70))


@law
@given(streams())
def test_codes_come_back(stream: tuple[int, list[int]]) -> None:
    bits, values = stream
    packed = pack(torch.tensor(values, dtype=torch.uint8), bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_bytes(len(values), bits),)
    assert unpack(packed, bits, len(values)).tolist() == values


@law
@given(streams())
def test_the_bytes_are_those_of_one_large_number(stream: tuple[int, list[int]]) -> None:
    # The same layout by other means: code i is worth 2^(i x bits) in a little-endian integer.
    bits, values = stream
    number = sum(value << (index * bits) for index, value in enumerate(values))
    expected = number.to_bytes(packed_bytes(len(values), bits), "little")
    assert bytes(pack(torch.tensor(values, dtype=torch.uint8), bits).tolist()) == expected


@widths
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 3), (1, 1)], ids=str)
def test_codes_are_taken_in_row_order(bits: int, shape: tuple[int, ...]) -> None:
    codes = torch.arange(torch.Size(shape).numel()).remainder(1 << bits).view(shape)
    scattered = codes.mT.contiguous().mT if codes.dim() > 1 else codes
    assert torch.equal(pack(scattered, bits), pack(codes.reshape(-1), bits))


@widths
def test_packing_copies(bits: int) -> None:
    codes = torch.ones(8, dtype=torch.uint8)
    packed = pack(codes, bits)
    unpacked = unpack(packed, bits, 8)
    codes.zero_()
    packed.zero_()
    assert unpacked.tolist() == [1] * 8


@widths
@pytest.mark.parametrize("off", [-1, 1], ids=["a byte short", "a byte long"])
def test_a_wrong_length_is_refused(bits: int, off: int) -> None:
    packed = torch.zeros(packed_bytes(9, bits) + off, dtype=torch.uint8)
    with pytest.raises(FormatError, match="9 codes of"):
        unpack(packed, bits, 9)


@pytest.mark.parametrize("bits", [0, 1, 3, 16, 32])
def test_other_widths_are_not_packed(bits: int) -> None:
    with pytest.raises(FormatError, match="packed at 2, 4 or 8 bits"):
        pack(torch.zeros(4, dtype=torch.uint8), bits)
