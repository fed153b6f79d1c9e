"""Which of ggml's types holds a format: a table, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mixq.errors import ExportError
from mixq.export.gguf.storage import TYPES, storage
from mixq.formats import Format

gguf: Any = pytest.importorskip("gguf", reason="an extra")


@pytest.mark.parametrize("name", TYPES)
def test_sizes_are_those_of_ggml(name: str) -> None:
    columns, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (TYPES[name].columns, TYPES[name].block_bytes) == (columns, block_bytes)
    assert TYPES[name].stored_bytes(3, 2 * columns) == 6 * block_bytes


@pytest.mark.parametrize(
    ("fmt", "columns", "kind", "note"),
    [
        ("w32", 33, "F32", ""),
        ("w16", 33, "F16", ""),
        ("w16-bf16", 33, "BF16", ""),
        ("w8", 96, "Q8_0", ""),
        ("w8g32-reduced", 96, "Q8_0", ""),
        ("w8g64-signed-gptq", 96, "Q8_0", ""),
        ("w4", 96, "Q4_0", ""),
        ("w4g32-signed", 96, "Q4_0", ""),
        ("w4g256", 512, "Q4_0", ""),
        ("w4g128-affine-hqq-bc", 96, "Q4_1", ""),
        ("w4g256-affine", 512, "Q4_K", ""),
        ("w4g256-affine", 288, "Q4_1", ""),
        ("w4-affine", 512, "Q4_K", ""),
        ("w4-zp", 512, "Q4_K", ""),
        ("w4g32-zp", 512, "Q8_0", "w4g32-zp is stored as Q8_0, at 8 bits"),
        ("w4-zp", 96, "Q8_0", "w4-zp is stored as Q8_0, at 8 bits"),
        ("w2g32", 512, "Q4_0", "w2g32 is stored as Q4_0, at 4 bits"),
        ("w2g64-zp", 512, "Q4_0", "w2g64-zp is stored as Q4_0, at 4 bits"),
        ("w2g64-affine", 512, "Q4_1", "w2g64-affine is stored as Q4_1, at 4 bits"),
        ("w2g256-signed", 512, "Q2_K", ""),
        ("w2-zp", 256, "Q2_K", ""),
        ("w2g256-affine", 256, "Q2_K", ""),
    ],
)
def test_the_smallest_exact_type(fmt: str, columns: int, kind: str, note: str) -> None:
    found = storage("layer.weight", Format.parse(fmt), columns)
    assert (found.type.name, found.note) == (kind, note)


@pytest.mark.parametrize(
    ("fmt", "columns", "reason"),
    [
        ("w8g32-zp", 64, "neither zero points nor minimums"),
        ("w8-affine", 64, "neither zero points nor minimums"),
        ("w4g48", 96, "its groups are no whole blocks of 32"),
        ("w8", 48, "its rows have 48 weights, which are no whole blocks of 32; keep it at w16"),
        ("w8a8-dynamic", 64, "take the format without '-dynamic'"),
        ("w8a8-static", 64, "take the format without '-static'"),
    ],
)
def test_what_no_type_holds_is_refused_in_one_line(fmt: str, columns: int, reason: str) -> None:
    with pytest.raises(ExportError, match=re.escape(reason)) as refusal:
        storage("layer.weight", Format.parse(fmt), columns)
    assert f"unit layer.weight is planned as {fmt}: " in str(refusal.value)
    assert "\n" not in str(refusal.value)
