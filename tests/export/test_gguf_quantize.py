"""A plan's widths as K types: what `llama-quantize` is told, and the same in this process."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixq.errors import ExportError
from mixq.export.gguf.overrides import K_TYPES, Override, argument_file, fallback, overrides
from mixq.export.gguf.quantize import write_float, write_overridden, write_recipe
from mixq.export.gguf.session import LlamaCpp, binding
from mixq.export.gguf.storage import TYPES
from mixq.export.source import Source

from .gguf_models import source_of, tiny, tokenizer_folder

gguf: Any = pytest.importorskip("gguf", reason="an extra")
pytest.importorskip("cyllama", reason="an extra")
pytest.importorskip("transformers", reason="an extra")

SIZES = {"hidden_size": 256, "intermediate_size": 288}
WIDTHS = ("w4g32", "w8", "w2g32", "w32", "w16")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return source_of(tiny("llama", **SIZES), tokenizer_folder(tmp_path / "folder"), *WIDTHS)


@pytest.mark.parametrize(
    ("wanted", "columns", "stored"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q2_K", 576, "Q4_0"),
        ("Q3_K", 576, "Q4_0"),
        ("Q4_K", 576, "Q5_0"),
        ("Q5_K", 576, "Q5_1"),
        ("Q6_K", 576, "Q8_0"),
        ("Q8_0", 576, "Q8_0"),
        ("Q4_K", 40, "F16"),
        ("Q8_0", 40, "F16"),
        ("F32", 40, "F32"),
    ],
)
def test_types_that_do_not_fit_the_rows(wanted: str, columns: int, stored: str) -> None:
    assert fallback(wanted, columns) == stored


def test_every_unit_has_the_type_of_its_width(source: Source) -> None:
    found = overrides(source)
    assert [item.unit for item in found] == list(source.plan.layers)
    for item in found:
        layer = source.plan.layers[item.unit]
        assert item.wanted == K_TYPES[layer.bits]
        assert item.type == fallback(item.wanted, layer.matrix[1])
    places = {item.unit: item.tensor for item in found}
    assert places["model.layers.1.self_attn.q_proj.weight"] == "blk.1.attn_q.weight"


def test_the_argument_file_is_what_llama_quantize_parses(source: Source) -> None:
    """Words without spaces, a lower-case pattern, `=`, a type (`parse_tensor_type`)."""
    found = overrides(source)
    lines = argument_file(found).split()
    assert len(lines) == len(found)
    known = {name.lower() for name in gguf.GGMLQuantizationType.__members__}
    for line, item in zip(lines, found, strict=True):
        pattern, _, kind = line.partition("=")
        assert pattern == pattern.lower()
        assert kind in known
        matches = [other.tensor for other in found if re.search(pattern, other.tensor)]
        assert matches == [item.tensor]


def test_a_width_or_type_without_meaning_is_refused(source: Source) -> None:
    with pytest.raises(ExportError, match="type IQ9 was given; choose from F32, F16"):
        overrides(source, {**K_TYPES, 4: "IQ9"})
    with pytest.raises(ExportError, match="has 4 bits, for which the type None"):
        overrides(source, {8: "Q8_0"})


def test_notes_name_what_fell_back() -> None:
    assert Override("blk.0.attn_q.weight", "q", "Q4_K", "Q4_K").note == ""
    note = Override("blk.0.attn_q.weight", "q", "Q4_K", "Q5_0").note
    assert note == "Q4_K does not fit the rows, stored as Q5_0"


def test_the_file_is_that_of_one_call_with_overrides(source: Source, tmp_path: Path) -> None:
    """llama_model_quantize with `tt_overrides` on the whole model gives the same bytes."""
    path, floats, whole = (tmp_path / name for name in ("mixed.gguf", "float.gguf", "whole.gguf"))
    written = write_overridden(source, path)
    assert written.tensor_bytes == written.predicted_bytes
    (fallen,) = [item for item in overrides(source) if item.note]
    assert written.notes == (f"Q2_K does not fit the rows, stored as Q4_0: {fallen.unit}",)
    write_float(source.model, source.folder, floats)
    quantize_at_once(floats, whole, overrides(source))
    ours, theirs = (
        {item.name: item for item in gguf.GGUFReader(file).tensors} for file in (path, whole)
    )
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert tensor.tensor_type == theirs[name].tensor_type
        np.testing.assert_array_equal(tensor.data, theirs[name].data)


class _Pattern(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int)]


def quantize_at_once(start: Path, end: Path, found: tuple[Override, ...]) -> None:
    """The call of `llama-quantize`; its list of overrides is put where cyllama has no setter."""
    library = binding()
    params = library.LlamaModelQuantizeParams()
    params.nthread, params.ftype = 12345, int(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    # struct llama_model_quantize_params: 4 int32, 6 bools, 2 bytes of padding, then pointers to
    # the importance matrix, to overrides of metadata and to these.
    header = (ctypes.c_int32 * 2).from_address(id(params) + 24)
    if tuple(header) != (12345, int(gguf.LlamaFileType.MOSTLY_Q4_K_M)):
        pytest.skip("this version of cyllama keeps the parameters elsewhere")
    params.nthread = 1
    lines = argument_file(found).split()
    patterns = (_Pattern * (len(lines) + 1))()
    for place, line, item in zip(patterns, lines, found, strict=False):
        place.pattern = line.partition("=")[0].encode()
        place.type = int(gguf.GGMLQuantizationType[item.wanted])
    ctypes.c_void_p.from_address(id(params) + 24 + 40).value = ctypes.addressof(patterns)
    library.model_quantize(str(start), str(end), params)


def test_llama_cpp_runs_its_own_recipe(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_recipe(source.model, source.folder, path, "Q4_K_M")
    kinds = {item.tensor_type.name for item in gguf.GGUFReader(path).tensors}
    assert {"Q4_K", "Q6_K"} <= kinds
    session = LlamaCpp(path)
    assert session.logits([1, 2, 3]).isfinite().all()
    session.close()
    assert [item.name for item in tmp_path.iterdir() if item.suffix == ".gguf"] == ["model.gguf"]


def test_an_unknown_recipe_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="recipe Q4_K_XL is unknown; choose from F16, BF16"):
        write_recipe(source.model, source.folder, tmp_path / "model.gguf", "Q4_K_XL")


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "Q5_1"])
def test_llama_cpp_rounds_to_every_type(name: str, source: Source, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    written = write_overridden(source, path, dict.fromkeys(K_TYPES, name))
    assert written.tensor_bytes == written.predicted_bytes
    read = {item.name: item.tensor_type.name for item in gguf.GGUFReader(path).tensors}
    assert read["blk.0.attn_q.weight"] == name
    assert TYPES[read["blk.0.ffn_down.weight"]].columns in (1, 32)
