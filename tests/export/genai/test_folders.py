"""A folder holds the plan's integers, computes what the plan computes, and generates."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixq.export.export import export
from mixq.export.genai.genai import Genai, rounded_tolerance
from mixq.export.onnx.kernel import kernels
from mixq.export.onnx.rounding import Effects
from mixq.export.registry import RUNTIMES
from mixq.export.runtime import FLOAT_TOLERANCE, INT8_TOLERANCE
from mixq.export.source import Unit
from mixq.export.verify import check_bytes, output_difference
from mixq.formats import Format
from mixq.quantize.packing import unpack

from .conftest import Folder, logits, model_of, relative, source_of

ir: Any = pytest.importorskip("onnx_ir", reason="an extra")

FAST = ("tied", "phi3")
ARCHITECTURES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in ("tied", "phi3", "llama", "qwen2")
]
Folders = Callable[..., Folder]

END = 256
FLOAT32_ERROR = 1e-5
"""Sums of at most 264 products in another order, in two layers: 2^-24 x 264 for the worst."""


def initializers(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    values = ir.load(path / "model.onnx").graph.initializers
    return {name: value.const_value.numpy() for name, value in values.items()}


def rows_of(stored: dict[str, np.ndarray[Any, Any]], unit: Unit, part: str) -> Any:
    """One part of a unit, whole or in the rows that it was cut into, in their order."""
    whole = f"{unit.name}.{part}"
    if whole in stored:
        return stored[whole]
    cut = {
        int(name.removeprefix(f"{unit.name}.rows.").split(".")[0]): array
        for name, array in stored.items()
        if name.startswith(f"{unit.name}.rows.") and name.endswith(f".{part}")
    }
    return np.concatenate([cut[start] for start in sorted(cut)])


@pytest.mark.parametrize("name", ARCHITECTURES)
class TestFolder:
    def test_holds_the_integers_of_the_plan(self, folder_of: Folders, name: str) -> None:
        folder = folder_of(name)
        stored = initializers(folder.path)
        for unit in folder.source.units.values():
            p = unit.packed
            if unit.is_float:
                assert np.array_equal(rows_of(stored, unit, "half"), p.tensors["half"].numpy())
                continue
            assert np.array_equal(_codes(rows_of(stored, unit, "codes"), p), unit.codes)
            assert np.array_equal(rows_of(stored, unit, "scales"), unit.scales)
            if unit.minimums is not None:
                assert np.array_equal(rows_of(stored, unit, "minimums"), unit.minimums)

    def test_has_no_float_weights_left(self, folder_of: Folders, name: str) -> None:
        floats = [
            key for key, array in initializers(folder_of(name).path).items()
            if array.dtype == np.float32 and array.ndim > 1
        ]  # fmt: skip
        assert sorted(floats) == ["cos_cache", "sin_cache"]

    def test_takes_the_predicted_bytes(self, folder_of: Folders, name: str) -> None:
        folder = folder_of(name)
        check_bytes(folder.written)
        shapes = sum(
            array.nbytes for key, array in initializers(folder.path).items()
            if key.startswith("mixq.")
        )  # fmt: skip
        assert folder.written.tensor_bytes - shapes == folder.written.predicted_bytes

    def test_computes_what_the_plan_does(self, folder_of: Folders, name: str) -> None:
        folder = folder_of(name)
        session = Genai().open(folder.path)
        assert output_difference(folder.source, session) < FLOAT32_ERROR
        assert folder.written.tolerance == FLOAT_TOLERANCE
        session.close()

    def test_generates_the_plan_s_likeliest_tokens(self, folder_of: Folders, name: str) -> None:
        folder = folder_of(name)
        ids = torch.tensor([[87, 105, 100, 101, 32, 119, 97]])
        start = ids.shape[1]
        for _ in range(6):
            following = logits(folder.source.applied, ids)[:, -1:].argmax(-1)
            ids = torch.cat([ids, following], dim=1)
        expected = ids[0, start:].tolist()
        assert END not in expected
        session = Genai().open(folder.path)
        assert session.following(ids[0, :start].tolist(), 6) == expected


def _codes(stored: Any, packed: Any) -> Any:
    """Codes (rows, columns) of packed rows, or of one number for each."""
    if stored.shape == (packed.rows, packed.columns):
        return stored.astype(np.uint8)
    flat = unpack(
        torch.tensor(stored.reshape(-1)), packed.format.bits, packed.rows * packed.columns
    )
    return flat.view(packed.rows, packed.columns).numpy()


def test_a_tied_head_is_stored_once(folder_of: Folders) -> None:
    folder = folder_of("tied")
    vocabulary = [
        key for key, array in initializers(folder.path).items() if array.shape[:1] == (264,)
    ]
    assert sorted(vocabulary) == [
        "model.embed_tokens.weight.codes",
        "model.embed_tokens.weight.scales",
    ]
    kinds = [node.op_type for node in ir.load(folder.path / "model.onnx").graph]
    assert kinds.count("GatherBlockQuantized") == 1


def test_export_accepts_rounded_activations(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, Genai.name, "mixq.export.genai.genai:Genai")
    model = model_of("tied")
    source = source_of(model, tokenizer, "w8g32", "w4g32-zp")
    done = export(
        model,
        source.plan,
        tmp_path / "folder",
        runtime=Genai.name,
        calibration=source.calibration,
        tokenizer=tokenizer,
    )
    assert done.tolerance == INT8_TOLERANCE
    assert FLOAT32_ERROR < done.difference < INT8_TOLERANCE
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]
    written = {item.name for item in (tmp_path / "folder").iterdir()}
    assert written >= {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"}
    assert not [name for name in written if name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w32", "w16"])
def test_a_plan_of_floats_has_no_kernels_to_choose(
    tokenizer: Path, tmp_path: Path, name: str
) -> None:
    source = source_of(model_of("tied"), tokenizer, name)
    written = Genai().write(source, tmp_path / "folder")
    assert written.tolerance == FLOAT_TOLERANCE
    assert output_difference(source, Genai().open(tmp_path / "folder")) < FLOAT32_ERROR


def test_auto_leaves_out_kernels_that_are_slower_than_floats() -> None:
    """A float product at 8 bits is dequantized on every call, twelve times slower than fp32."""
    ladder = kernels(Format.parse("w8g32"), 96)
    assert max(kernel.cost for kernel in ladder) > 1
    fast = Effects({"unit": ladder}, {"unit": tuple(range(len(ladder)))}).fast()
    assert [kernel.rounds for kernel in fast.kernels["unit"]] == [True] * len(fast.effects["unit"])
    assert fast.kernels["unit"] == ladder[:-1]


def test_samples_may_be_padded_on_the_right(folder_of: Folders) -> None:
    session = Genai().open(folder_of("tied").path)
    ids = torch.arange(20).view(2, 10)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    found = session.run({"input_ids": ids, "attention_mask": mask})["logits"]
    alone = session.run({"input_ids": ids[1:, :7]})["logits"]
    assert relative(found[1:, :7], alone) < FLOAT32_ERROR
    assert relative(found[:1], session.run(ids[:1])["logits"]) < FLOAT32_ERROR


@pytest.mark.parametrize(
    ("layers", "tolerance"), [(1, 2e-2), (4, 2e-2), (30, math.sqrt(30) / 100)]
)
def test_roundings_of_layers_add_in_squares(layers: int, tolerance: float) -> None:
    assert rounded_tolerance(layers) == pytest.approx(tolerance)
