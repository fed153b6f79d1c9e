"""Mlx: the same integers, the same outputs, the bytes that were predicted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mixq.batch import named_tensors
from mixq.calibration import Calibration
from mixq.errors import ExportError, MissingExtraError
from mixq.export.mlx import Mlx
from mixq.export.mlx.architecture import mlx_config
from mixq.export.mlx.layout import layout_of, tensors_of
from mixq.export.mlx.tensors import to_mlx
from mixq.export.runtime import Runtime
from mixq.export.source import Source, Unit
from mixq.formats import Format
from mixq.quantize.weights import pack_weight
from tests.example_models import load
from tests.export import hf_models
from tests.plans import plan_for

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")

RUNTIME: Runtime = Mlx()
ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order, two layers deep."""
MIXES = {
    "every-width": ("w8g64", "w4g32", "w2g64-zp", "w16", "w32"),
    "every-grid": ("w8-zp", "w4g64-affine", "w2g32-signed", "w8g128-reduced"),
    "bfloat16": ("w16-bf16", "w4g128"),
    "plain": ("w32",),
}


def unit(fmt: Format, rows: int, columns: int, seed: int = 0) -> Unit:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return Unit("w", ("w",), pack_weight(weight, fmt, rows, columns))


def dequantized(stored: dict[str, Any], bits: int, group_size: int) -> torch.Tensor:
    """What mlx itself makes of the tensors."""
    weight, scales, biases = (to_mlx(stored[k]) for k in ("weight", "scales", "biases"))
    wide = mx.dequantize(
        weight, scales.astype(mx.float32), biases.astype(mx.float32), group_size, bits
    )
    return torch.tensor(wide.tolist())


@pytest.mark.parametrize("formats", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied-head"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3"])
def test_outputs_are_those_of_the_applied_plan(
    tmp_path: Path, kind: str, tied: bool, formats: tuple[str, ...]
) -> None:
    source = hf_models.source(hf_models.model(kind, tie_word_embeddings=tied), *formats)
    Mlx().check(source)
    written = Mlx().write(source, tmp_path / "out")

    session = Mlx().open(tmp_path / "out")
    found = session.run(hf_models.batch())["logits"]
    session.close()

    expected = hf_models.outputs(source.applied, hf_models.batch())["logits"]
    assert hf_models.difference(found, expected) < ROUNDING
    assert written.tensor_bytes == written.predicted_bytes
    size = hf_models.file_tensor_bytes(tmp_path / "out" / "model.safetensors")
    # safetensors fills its header up, and nothing else, to whole words.
    assert written.tensor_bytes == size


def test_the_loaded_model_holds_the_plan_s_integers_and_values(tmp_path: Path) -> None:
    source = hf_models.source(hf_models.model("llama"), *MIXES["every-grid"])
    Mlx().write(source, tmp_path / "out")
    modules = dict(mlx_lm.utils.load_model(tmp_path / "out")[0].named_modules())
    for name, planned in source.units.items():
        module = modules[name.removesuffix(".weight")]
        assert module.bits == planned.packed.format.bits, name
        ones = mx.ones(module.scales.shape)
        codes = mx.dequantize(module.weight, ones, 0 * ones, module.group_size, module.bits)
        assert torch.equal(torch.tensor(codes.tolist()), torch.from_numpy(planned.codes).float())
        values = mx.dequantize(
            module.weight,
            module.scales.astype(mx.float32),
            module.biases.astype(mx.float32),
            module.group_size,
            module.bits,
        )
        assert torch.equal(torch.tensor(values.tolist()), planned.weight()), name


@settings(deadline=None, max_examples=60)
@given(
    bits=st.sampled_from([2, 4, 8]),
    grid=st.sampled_from(["symmetric", "signed", "zero-point", "affine"]),
    group=st.sampled_from([None, 32, 64, 96, 128, 192, 256]),
    rows=st.integers(1, 5),
    words=st.integers(1, 12),
    is_embedding=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_layout_stands_for_exactly_the_plan_s_weights(
    bits: int,
    grid: Any,
    group: int | None,
    rows: int,
    words: int,
    is_embedding: bool,
    seed: int,
) -> None:
    fmt, columns = Format(bits, group, grid), 32 * words
    planned = unit(fmt, rows, columns, seed)
    layout = layout_of("w", fmt, columns, is_embedding=is_embedding)
    stored = tensors_of(planned, layout)
    assert torch.equal(dequantized(stored, bits, layout.group_size), planned.weight())
    size = sum(t.numel() * t.element_size() for t in stored.values())
    assert size == layout.stored_bytes(rows, columns)


@pytest.mark.parametrize(
    ("fmt", "columns", "group_size"),
    [
        ("w4g32", 128, 32),
        ("w4g64", 192, 64),
        ("w4g96", 192, 32),
        ("w4g128", 256, 128),
        ("w4g256", 512, 128),
        ("w4g256", 384, 128),
        ("w4g256", 320, 64),
        ("w8", 576, 64),
        ("w8", 1536, 128),
        ("w8", 96, 32),
    ],
)
def test_a_group_of_mlx_divides_the_plan_s(fmt: str, columns: int, group_size: int) -> None:
    layout = layout_of("w", Format.parse(fmt), columns, is_embedding=False)
    assert layout.group_size == group_size


@pytest.mark.parametrize(
    ("fmt", "columns", "told"),
    [
        ("w4g16", 128, ["w4g16", "32, 64 and 128"]),
        ("w4g48", 192, ["w4g48", "32, 64 and 128"]),
        ("w4g64", 80, ["rows of 80 weights", "32, 64 and 128"]),
        ("w8", 100, ["w8", "rows of 100 weights"]),
        ("w8a8-dynamic", 128, ["w8a8-dynamic", "activations", "onnxruntime"]),
    ],
)
def test_formats_without_a_layout_are_refused(fmt: str, columns: int, told: list[str]) -> None:
    with pytest.raises(ExportError) as refused:
        layout_of("some.weight", Format.parse(fmt), columns, is_embedding=False)
    for part in ["'some.weight'", *told]:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "formats", "told"),
    [
        ("bert", ("w4g64",), ["'bert'", "mlx-lm", "llama"]),
        ("mamba", ("w4g32",), ["A_log", "Linear and Embedding", "16 or 32 bits"]),
        ("llama", ("w4g16",), ["embed_tokens", "w4g16"]),
        ("gpt2", ("w16",), ["model.wte.weight", "(96, 128)", "another runtime"]),
    ],
    ids=["architecture", "no-linear", "format", "tensors"],
)
def test_models_that_mlx_does_not_take_are_refused(
    tmp_path: Path, kind: str, formats: tuple[str, ...], told: list[str]
) -> None:
    source = hf_models.source(hf_models.model(kind), *formats)
    with pytest.raises(ExportError) as refused:
        Mlx().check(source)
    assert all(part in str(refused.value) for part in told), refused.value
    with pytest.raises(ExportError):
        Mlx().write(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_mlx_lm_transposes_go_along_as_floats(tmp_path: Path) -> None:
    source = hf_models.source(hf_models.model("mamba"), "w32")
    Mlx().write(source, tmp_path / "out")
    found = Mlx().open(tmp_path / "out").run(hf_models.batch())["logits"]
    expected = hf_models.outputs(source.applied, hf_models.batch())["logits"]
    assert hf_models.difference(found, expected) < ROUNDING


def test_a_model_without_a_configuration_is_refused() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    plan = plan_for(model, Format(8))
    source = Source.of(model, plan, Calibration.of(torch.randn(2, 64)))
    with pytest.raises(ExportError, match="Sequential is no model of transformers"):
        Mlx().check(source)


def test_the_configuration_names_every_module(tmp_path: Path) -> None:
    source = hf_models.source(hf_models.model("llama"), "w4g32", "w8g64", "w8g64", "w32")
    Mlx().write(source, tmp_path / "out")
    config = hf_models.read_json(tmp_path / "out" / "config.json")
    quantization = config["quantization"]
    assert (quantization["group_size"], quantization["bits"]) == (64, 8)
    for name, layer in source.plan.layers.items():
        expected = {"group_size": layer.group_size, "bits": layer.bits}
        found = quantization[name.removesuffix(".weight")]
        assert found == (expected if layer.bits < 16 else False)
    assert config["rope_theta"] == 5e3
    assert "quantization_config" not in config


def test_positions_are_spelled_as_mlx_lm_reads_them() -> None:
    rope = {"rope_type": "yarn", "rope_theta": 7.0, "factor": 2.0, "partial_rotary_factor": 0.5}
    found = mlx_config({"model_type": "x", "rope_parameters": rope})
    assert (found["rope_theta"], found["partial_rotary_factor"]) == (7.0, 0.5)
    assert found["rope_scaling"]["type"] == "yarn"
    assert found["rope_scaling"]["factor"] == 2.0
    assert mlx_config({"model_type": "x"}) == {"model_type": "x"}


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "a.md",
    ):
        (folder / name).write_text(name, encoding="utf-8")
    source = hf_models.source(hf_models.model("llama"), "w4g64", folder=folder)
    Mlx().write(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    source = hf_models.source(hf_models.model("llama"), "w4g64")
    Mlx().write(source, tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ExportError, match="mlx-lm does not load") as refused:
        Mlx().open(tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_inputs_that_mlx_lm_ignores_are_refused(tmp_path: Path) -> None:
    source = hf_models.source(hf_models.model("llama"), "w4g64")
    Mlx().write(source, tmp_path / "out")
    session = Mlx().open(tmp_path / "out")
    ids = hf_models.batch()["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    expected = hf_models.outputs(source.applied, {"input_ids": ids, "attention_mask": mask})
    for batch in ({"input_ids": ids, "attention_mask": mask}, ids, (ids, mask)[:1]):
        found = session.run(batch)["logits"]
        assert hf_models.difference(found[0, :9], expected["logits"][0, :9]) < ROUNDING
    for wrong in ({"attention_mask": mask.flip(1)}, {"position_ids": ids}):
        with pytest.raises(ExportError, match="input_ids alone"):
            session.run({"input_ids": ids, **wrong})


def test_the_runtime_has_a_name() -> None:
    assert (RUNTIME.name, RUNTIME.extra, RUNTIME.is_folder) == ("mlx", "mlx", True)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm.utils", None)
    with pytest.raises(MissingExtraError, match=r"mixq\[mlx\]"):
        Mlx().open(tmp_path)


@pytest.mark.slow
def test_smollm2_computes_what_was_measured_and_writes_a_sentence(tmp_path: Path) -> None:
    model, calibration, _ = load("smollm2")
    formats = [Format.parse(name) for name in ("w8g64", "w4g32", "w4g64-zp", "w4g64-affine")]
    source = Source.of(model, plan_for(model, *formats), calibration)
    written = Mlx().write(source, tmp_path / "out")
    assert written.tensor_bytes == written.predicted_bytes

    ids = dict(named_tensors(calibration.batches[0]))["input_ids"]
    batch = {"input_ids": ids[:, :32]}
    found = Mlx().open(tmp_path / "out").run(batch)["logits"]
    expected = hf_models.outputs(source.applied, batch)["logits"]
    # Thirty layers deep; float16 biases would make it 2e-3.
    assert hf_models.difference(found, expected) < 5e-5

    mlx_model, tokenizer = mlx_lm.load(str(tmp_path / "out"))
    text = "The capital of France is"
    answer = mlx_lm.generate(mlx_model, tokenizer, text, max_tokens=4)
    assert "Paris" in answer
