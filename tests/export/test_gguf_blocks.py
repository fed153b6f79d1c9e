"""The bytes of every type, read by the gguf package: the plan's integers and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.export.gguf.blocks import blocks
from mixq.export.gguf.storage import storage
from mixq.export.source import Unit
from mixq.formats import Format
from mixq.quantize.codes import Codes, Steps, code_range
from mixq.quantize.weights import pack_codes, pack_weight

gguf: Any = pytest.importorskip("gguf", reason="an extra")

ROWS = 6
NAMES = (
    "w8", "w8g32", "w8g64-reduced", "w8g128-signed", "w4", "w4g32", "w4g32-signed", "w4g64",
    "w4g256-zp", "w4-zp", "w4g32-zp", "w4-affine", "w4g64-affine", "w4g256-affine", "w2", "w2g32",
    "w2g256", "w2g256-signed", "w2g256-zp", "w2g256-affine", "w2-zp", "w2g32-zp", "w2g32-affine",
    "w2g64-signed",
)  # fmt: skip


def unit_of(weight: torch.Tensor, fmt: Format) -> Unit:
    return Unit("w", ("w",), pack_weight(weight, fmt, *weight.shape))


def read_back(unit: Unit, rows: npt.NDArray[np.intp] | None = None) -> npt.NDArray[np.float32]:
    packed = unit.packed
    kind = storage("w", packed.format, packed.columns).type
    data = blocks(unit, kind, np.arange(packed.rows) if rows is None else rows)
    assert data.nbytes == kind.stored_bytes(len(data), packed.columns)
    values: npt.NDArray[np.float32] = gguf.quants.dequantize(
        data, gguf.GGMLQuantizationType[kind.name]
    )
    return values


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [512, 288], ids=["whole", "ragged"])
def test_the_gguf_package_reads_the_weights_of_the_plan(name: str, columns: int) -> None:
    weight = torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(0))
    unit = unit_of(weight, Format.parse(name))
    np.testing.assert_array_equal(read_back(unit), unit.weight().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_every_code_and_offset_of_a_grid_is_kept(name: str) -> None:
    """Scales 1 and -1 make weights of the integers themselves, so the file must hold those."""
    fmt = Format.parse(name)
    low, high = code_range(fmt)
    columns = 256
    groups = fmt.groups_per_row(columns)
    codes = (torch.arange(ROWS * columns) % (high + 1 - low) + low).view(ROWS, columns)
    signs = torch.tensor([1.0, -1.0] if fmt.grid == "signed" else [1.0]).repeat(ROWS * groups)
    scales = signs[: ROWS * groups].view(ROWS, groups).half()
    offsets = (torch.arange(ROWS * groups) % (high + 1)).view(ROWS, groups)
    steps = Steps(
        scales,
        offsets.to(torch.uint8) if fmt.grid == "zero-point" else None,
        -offsets.half() if fmt.grid == "affine" else None,
    )
    packed = pack_codes(Codes(codes.to(torch.uint8), steps), fmt, torch.empty(ROWS, columns))
    each = torch.arange(columns) // (fmt.group_size or columns)
    if fmt.grid in ("zero-point", "affine"):
        expected = codes - offsets[:, each]
    else:
        expected = (codes - (1 << (fmt.bits - 1))) * scales.int()[:, each]
    assert np.array_equal(read_back(Unit("w", ("w",), packed)), expected.numpy())


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(ROWS)), name=st.sampled_from(NAMES))
def test_rows_move_with_their_scales(order: list[int], name: str) -> None:
    weight = torch.randn(ROWS, 256, generator=torch.Generator().manual_seed(1))
    unit = unit_of(weight, Format.parse(name))
    np.testing.assert_array_equal(read_back(unit, np.array(order)), unit.weight().numpy()[order])
