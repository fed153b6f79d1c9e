"""CompressedTensors: the same integers, the same outputs, the bytes that were predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from mixq.batch import named_tensors
from mixq.calibration import Calibration
from mixq.errors import ExportError, MissingExtraError
from mixq.export.compressed_tensors import CompressedTensors, contents, runtime
from mixq.export.compressed_tensors.layout import Scheme, scheme_of, tensors_of
from mixq.export.runtime import Runtime
from mixq.export.source import Source, Unit
from mixq.formats import Format
from mixq.quantize.weights import pack_weight
from tests.example_models import load
from tests.export import hf_models
from tests.plans import plan_for

transformers = pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

RUNTIME: Runtime = CompressedTensors()
ROUNDING = 1e-5
"""Both models compute the same float32 products; threads may add them in another order."""
MIXES = {
    "every-width": ("w8g64", "w4g32", "w2g64", "w16", "w32"),
    "every-grid": ("w8-zp", "w4", "w2g32-signed", "w8g128-reduced", "w8g64-zp"),
    "bfloat16": ("w16-bf16", "w4g128"),
    "zero-points": ("w4g64-zp", "w2g32-zp", "w4-zp"),
    "plain": ("w32",),
    "one-scheme": ("w8",),
}
ENCODERS = {
    "embeddings-8": ("w8g64", "w8", "w8-zp", *["w4g32", "w2", "w8g64-zp"] * 20),
    "embeddings-4": ("w4g64-zp", "w4", "w2g32"),
    "embeddings-16": ("w16", "w16", "w32", *["w4g64-signed"] * 60),
}


def check(tmp_path: Path, source: Source) -> None:
    """Write, load, compare outputs and bytes."""
    CompressedTensors().check(source)
    written = CompressedTensors().write(source, tmp_path / "out")
    session = CompressedTensors().open(tmp_path / "out")
    found = session.run(hf_models.batch())
    session.close()
    expected = hf_models.outputs(source.applied, hf_models.batch())
    assert found.keys() == expected.keys()
    for name, output in expected.items():
        assert hf_models.difference(found[name], output) < ROUNDING, name
    size = hf_models.file_tensor_bytes(tmp_path / "out" / "model.safetensors")
    assert written.tensor_bytes == written.predicted_bytes == size


@pytest.mark.parametrize("formats", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied-head"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3"])
def test_causal_outputs_are_those_of_the_applied_plan(
    tmp_path: Path, kind: str, tied: bool, formats: tuple[str, ...]
) -> None:
    check(tmp_path, hf_models.source(hf_models.model(kind, tie_word_embeddings=tied), *formats))


@pytest.mark.parametrize("formats", ENCODERS.values(), ids=ENCODERS)
def test_encoder_outputs_are_those_of_the_applied_plan(
    tmp_path: Path, formats: tuple[str, ...]
) -> None:
    source = hf_models.source(hf_models.model("bert"), *formats)
    check(tmp_path, source)


def test_the_loaded_model_holds_the_plan_s_values(tmp_path: Path) -> None:
    source = hf_models.source(hf_models.model("llama"), *MIXES["every-grid"])
    CompressedTensors().write(source, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert "model.layers.0.self_attn.q_proj.weight_packed" in model.state_dict()
    model(**hf_models.batch())  # the first batch turns codes into floats
    for name, unit in source.units.items():
        assert torch.equal(model.get_parameter(name), unit.weight()), name


@settings(deadline=None, max_examples=80)
@given(
    bits=st.sampled_from([2, 4, 8]),
    grid=st.sampled_from(["symmetric", "signed", "zero-point"]),
    group=st.sampled_from([None, 16]),
    is_embedding=st.booleans(),
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_the_library_unpacks_exactly_the_plan_s_weights(
    bits: int,
    grid: Any,
    group: int | None,
    is_embedding: bool,
    rows: int,
    columns: int,
    seed: int,
) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    columns = columns if group is None else 16 * (1 + columns // 16)
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    fmt = Format(bits, group, grid)
    unit = Unit("w", ("w",), pack_weight(weight, fmt, rows, columns))
    module = nn.Embedding(rows, columns) if is_embedding else nn.Linear(columns, rows)
    scheme = scheme_of("w", fmt, columns, [(module, "weight")])
    stored = tensors_of(unit, scheme)

    library: Any = BaseCompressor.get_value_from_registry(scheme.container)
    parsed = QuantizationScheme.model_validate({"targets": [], **scheme.arguments()})
    loaded = {**stored, "weight_scale": stored["weight_scale"].float()}  # as a float32 model has
    assert torch.equal(library.decompress(loaded, parsed)["weight"], unit.weight())
    size = sum(t.numel() * t.element_size() for t in stored.values())
    assert size == scheme.stored_bytes(rows, columns, 1)


@pytest.mark.parametrize(
    ("fmt", "module", "scheme"),
    [
        ("w4g64", nn.Linear(128, 8), "w4g64 pack-quantized"),
        ("w2", nn.Linear(128, 8), "w2 pack-quantized"),
        ("w8-signed", nn.Linear(128, 8), "w8 pack-quantized"),
        ("w8g64-zp", nn.Linear(128, 8), "w8g64-zp int-quantized"),
        ("w4g64-zp", nn.Linear(128, 8), "w5g64 pack-quantized"),
        ("w2-zp", nn.Linear(128, 8), "w3 pack-quantized"),
        ("w8", nn.Embedding(8, 128), "w8 int-quantized"),
        ("w8-zp", nn.Embedding(8, 128), "w8-zp int-quantized"),
        ("w4g64-zp", nn.Embedding(8, 128), "w8g64 int-quantized"),
        ("w2", nn.Embedding(8, 128), "w8 int-quantized"),
    ],
)
def test_each_unit_has_a_scheme_that_loads(fmt: str, module: nn.Module, scheme: str) -> None:
    assert scheme_of("w", Format.parse(fmt), 128, [(module, "weight")]).name == scheme


def test_shared_weights_are_not_packed() -> None:
    linear = (nn.Linear(128, 8), "weight")
    for fmt in ("w8g64", "w4g64", "w2g64"):
        found = scheme_of("w", Format.parse(fmt), 128, [linear, linear])
        assert found.name == "w8g64 int-quantized"


@pytest.mark.parametrize(
    ("fmt", "module", "leaf", "told"),
    [
        ("w4g64-affine", nn.Linear(128, 8), "weight", ["float minimums", "zero-point grid"]),
        ("w8g48", nn.Linear(128, 8), "weight", ["divide the row of 128"]),
        ("w8a8-dynamic", nn.Linear(128, 8), "weight", ["activations", "onnxruntime"]),
        ("w8", nn.Conv1d(128, 8, 1), "weight", ["Conv1d", "16 or 32 bits"]),
        ("w8", nn.Linear(128, 8), "delta", ["'delta' of Linear", "16 or 32 bits"]),
        ("w8", nn.LSTM(128, 8), "weight_ih_l0", ["weight_ih_l0", "LSTM", "16 or 32 bits"]),
    ],
)
def test_what_the_format_cannot_say_is_refused(
    fmt: str, module: nn.Module, leaf: str, told: list[str]
) -> None:
    with pytest.raises(ExportError) as refused:
        scheme_of("some.weight", Format.parse(fmt), 128, [(module, leaf)])
    for part in ["'some.weight'", fmt, *told]:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_refused_plan_writes_nothing(tmp_path: Path) -> None:
    source = hf_models.source(hf_models.model("llama"), "w8", "w4g64-affine")
    for step in (
        CompressedTensors().check,
        lambda s: CompressedTensors().write(s, tmp_path / "o"),
    ):
        with pytest.raises(ExportError, match="w4g64-affine"):
            step(source)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_configuration_is_refused() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    source = Source.of(model, plan_for(model, Format(8)), Calibration.of(torch.randn(2, 64)))
    with pytest.raises(ExportError, match="Sequential is no model of transformers"):
        CompressedTensors().check(source)


def test_tensors_that_the_class_has_no_place_for_are_refused() -> None:
    source = hf_models.source(hf_models.model("llama"), "w4g64")
    source.restored.register_buffer("added", torch.ones(1))
    with pytest.raises(ExportError, match="equalization adds or removes 1 tensors"):
        CompressedTensors().check(source)


def test_the_configuration_is_the_library_s(tmp_path: Path) -> None:
    from compressed_tensors.quantization import QuantizationConfig

    source = hf_models.source(hf_models.model("llama"), "w8g64", "w4g32", "w4", "w32")
    CompressedTensors().write(source, tmp_path / "out")
    config = hf_models.read_json(tmp_path / "out" / "config.json")
    parsed: Any = QuantizationConfig.model_validate(config["quantization_config"])
    targets = {t: group for group in parsed.config_groups.values() for t in group.targets}
    coded = {name: layer for name, layer in source.plan.layers.items() if layer.bits < 16}
    assert targets.keys() == {name.removesuffix(".weight") for name in coded}
    for name, layer in coded.items():
        weights = targets[name.removesuffix(".weight")].weights
        assert (weights.num_bits, weights.group_size) == (layer.bits, layer.group_size)
        assert weights.symmetric
    assert parsed.format == "mixed-precision"  # the embedding has a format of its own
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("kind", ["llama", "bert-lm"])
def test_a_tied_head_stays_tied(tmp_path: Path, kind: str) -> None:
    model = hf_models.model(kind, tie_word_embeddings=True)
    head = {"llama": "lm_head", "bert-lm": "cls.predictions.decoder"}[kind]
    check(tmp_path, hf_models.source(model, "w8g64-zp"))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    own = {name.removeprefix(head) for name in stored if name.startswith(head)}
    assert own - {".bias"} == {".weight_scale", ".weight_zero_point"}


@pytest.mark.parametrize(
    ("formats", "wider"),
    [(("w8", "w4"), []), (("w8", "w4-zp"), ["5 for 4"]), (("w2", "w8-zp"), ["embed", "8 for 2"])],
    ids=["as-planned", "zero-points", "embedding"],
)
def test_units_that_take_more_bits_are_told(
    tmp_path: Path, formats: tuple[str, ...], wider: list[str]
) -> None:
    source = hf_models.source(hf_models.model("phi3"), *formats)
    notes = CompressedTensors().write(source, tmp_path / "out").notes
    told = [note for note in notes if "more bits than planned" in note]
    assert len(told) == bool(wider)
    assert all(part in told[0] for part in wider)


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched", "cut", "class"])
def test_a_damaged_folder_is_one_line(tmp_path: Path, change: str) -> None:
    source = hf_models.source(hf_models.model("llama"), "w8", "w4g64")
    CompressedTensors().write(source, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    stored = {name: tensor.clone() for name, tensor in load_file(file).items()}
    if change == "missing":
        del stored["model.norm.weight"]
    elif change == "unexpected":
        stored["other.weight"] = torch.ones(1)
    elif change == "mismatched":
        stored["model.norm.weight"] = torch.ones(3)
    save_file(stored, file, metadata={"format": "pt"})
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif change == "class":
        config = tmp_path / "out" / "config.json"
        config.write_text(config.read_text().replace("LlamaForCausalLM", "NoSuchModel"))
    with pytest.raises(ExportError) as refused:
        CompressedTensors().open(tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_threads_and_odd_numbers_of_a_configuration(tmp_path: Path) -> None:
    model = hf_models.model("llama", odd=float("inf"))
    CompressedTensors().write(hf_models.source(model, "w8"), tmp_path / "out")
    before, seen = torch.get_num_threads(), []
    session = CompressedTensors().open(tmp_path / "out", threads=before + 1)
    loaded = session._model
    loaded.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    session.run(hf_models.batch())
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
    assert loaded.config.odd == float("inf")


def test_the_runtime_has_a_name() -> None:
    assert (RUNTIME.name, RUNTIME.extra, RUNTIME.is_folder) == (
        "transformers",
        "compressed-tensors",
        True,
    )


@pytest.mark.parametrize("missing", ["transformers", "compressed_tensors"])
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtraError, match=r"mixq\[compressed-tensors\]"):
        CompressedTensors().open(tmp_path)


def test_transformers_does_not_load_packed_embeddings_yet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If this fails, transformers has learnt it, and embeddings may have 4 and 2 bits."""

    def packed(name: str, fmt: Format, columns: int, owners: object) -> Scheme:
        return Scheme(fmt.bits, fmt.group_size, False, "pack-quantized")

    monkeypatch.setattr(contents, "scheme_of", packed)
    CompressedTensors().write(
        hf_models.source(hf_models.model("llama"), "w4g64"), tmp_path / "out"
    )
    with pytest.raises(ExportError, match="'Embedding' object has no attribute 'weight'"):
        CompressedTensors().open(tmp_path / "out")


@pytest.mark.slow
def test_minilm_loads_with_auto_model(tmp_path: Path) -> None:
    model, calibration, _ = load("minilm")
    formats = [Format.parse(name) for name in ("w8g64", "w8", "w8", *["w4g32", "w4g64"] * 40)]
    source = Source.of(model, plan_for(model, *formats), calibration)
    written = CompressedTensors().write(source, tmp_path / "out")
    assert written.tensor_bytes == written.predicted_bytes
    found = CompressedTensors().open(tmp_path / "out").run(calibration.batches[0])
    expected = hf_models.outputs(source.applied, dict(named_tensors(calibration.batches[0])))
    for name, output in expected.items():
        assert hf_models.difference(found[name], output) < ROUNDING
