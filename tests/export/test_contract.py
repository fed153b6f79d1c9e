"""Every exporter of mixq keeps the contract that those of other packages keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from mixq.export.registry import RUNTIMES
from mixq.export.source import Source, Unit
from mixq.packed_units import unit_key
from mixq.quantize.codes import Codes, Steps, dequantize
from mixq.quantize.packing import unpack
from mixq.testing import RuntimeContract
from mixq.testing.layers import LAYERS
from mixq.testing.runtime import FORMATS, Subject
from tests.export import gguf_models, hf_models

Arrays = Mapping[str, Any]
WEIGHT_ONLY = tuple(name for name in FORMATS if "a8" not in name)


def stood_for(unit: Unit, stored: Arrays) -> Tensor:
    """Weights of what a file has of a unit: `half`, or codes with their steps, packed or not."""
    p = unit.packed
    if unit.is_float and p.format.grid == "bfloat16" and stored["half"].dtype == np.float16:
        bits = torch.from_numpy(stored["half"].view(np.int16).copy())  # numpy has no bfloat16
        return bits.view(torch.bfloat16).float().reshape(p.shape)
    if unit.is_float:
        return torch.from_numpy(np.asarray(stored["half"], np.float32)).reshape(p.shape)
    groups = p.format.groups_per_row(p.columns)

    def integers(part: str, columns: int) -> Tensor:
        signed = str(stored[part].dtype).startswith("int")
        numbers = np.asarray(stored[part]).astype(np.int64)
        array = torch.from_numpy(numbers) + signed * (1 << (p.format.bits - 1))
        if array.shape == (columns, p.rows) and columns != p.rows:  # as a product reads it
            array = array.T
        array = array.reshape(-1)
        if array.numel() == p.rows * columns:
            return array.to(torch.uint8).reshape(p.rows, columns)
        return unpack(array.to(torch.uint8), p.format.bits, p.rows * columns).view(p.rows, columns)

    def halves(part: str) -> Tensor:
        array = torch.from_numpy(np.array(stored[part]))
        return (array.T if array.shape == (groups, p.rows) else array).reshape(p.rows, groups)

    steps = Steps(
        halves("scales"),
        integers("zeros", groups) if "zeros" in stored else None,
        halves("minimums") if "minimums" in stored else None,
    )
    codes = integers("codes", p.columns)
    return dequantize(Codes(codes, steps), p.format).reshape(p.shape)


def by_unit(source: Source, stored: Arrays) -> dict[str, Tensor]:
    """Of arrays whose names are `unit.part`."""
    parts = ("half", "codes", "scales", "zeros", "minimums")
    return {
        name: stood_for(unit, {p: stored[f"{name}.{p}"] for p in parts if f"{name}.{p}" in stored})
        for name, unit in source.units.items()
    }


def initializers(path: Path) -> dict[str, Any]:
    import onnx_ir as ir

    values = ir.load(path).graph.initializers
    return {name: value.const_value.numpy() for name, value in values.items()}


class TestTorch(RuntimeContract):
    runtime = "torch"
    holds = FORMATS
    takes = tuple(LAYERS)
    loader = ""

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        # numpy has no bfloat16.
        wide = {torch.bfloat16: torch.float32}
        stored = {key: t.to(wide.get(t.dtype, t.dtype)) for key, t in load_file(path).items()}
        return {
            name: stood_for(unit, {p: stored[unit_key(name, p)].numpy() for p in parts_of(unit)})
            for name, unit in source.units.items()
        }


class TestOnnxRuntime(RuntimeContract):
    runtime = "onnxruntime"
    holds = FORMATS
    takes = tuple(LAYERS)
    loader = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    needs = ("onnxscript", "onnxruntime")

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        return by_unit(source, initializers(path))


class TestQdq(RuntimeContract):
    runtime = "qdq"
    is_exact = False  # scales are float32
    holds = tuple(n for n in FORMATS if "w2" not in n and "affine" not in n and "dynamic" not in n)
    takes = tuple(LAYERS)
    loader = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        return by_unit(source, initializers(path))


class TestOpenvino(RuntimeContract):
    runtime = "openvino"
    holds = WEIGHT_ONLY
    takes = tuple(LAYERS)
    loader = "import sys, openvino; openvino.Core().compile_model(sys.argv[1], 'CPU')"
    needs = ("openvino",)

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        from mixq.export.openvino.decompression import group_size
        from tests.export.test_openvino import constants, whole

        stored = constants(path)
        found: dict[str, Any] = {}
        for name, unit in source.units.items():
            rows = unit.packed.rows
            if unit.is_float:
                found[f"{name}.half"] = stored[f"{name}.half"]
                continue
            # Scales may be repeated for smaller groups.
            columns = unit.packed.columns
            every = (unit.packed.format.group_size or columns) // group_size(unit)
            for part in ("codes", "scales", "zeros", "minimums"):
                if f"{name}.{part}" in stored:
                    array = whole(stored, name, part, rows)
                    found[f"{name}.{part}"] = array if part == "codes" else array[:, ::every]
        return by_unit(source, found)


def llama(folder: Path, tokenizer: Path | None = None) -> Subject:
    """A small Llama of 23 units, whose rows are 128 and 256 weights long."""
    model = hf_models.model("llama", num_hidden_layers=3)
    return Subject(model, [hf_models.batch()], hf_models.batch(3, 7), tokenizer)


class TestMlx(RuntimeContract):
    runtime = "mlx"
    holds = WEIGHT_ONLY
    loader = "import sys, pathlib, mlx_lm; mlx_lm.utils.load_model(pathlib.Path(sys.argv[1]))"
    needs = ("mlx_lm",)
    is_exact = False

    def subject(self, folder: Path) -> Subject:
        return llama(folder)

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        mx, mlx_lm = pytest.importorskip("mlx.core"), pytest.importorskip("mlx_lm")
        modules = dict(mlx_lm.utils.load_model(path)[0].named_modules())
        found = {}
        for name, unit in source.units.items():
            module = modules[name.removesuffix(".weight")]
            weight = module.weight
            if not unit.is_float:
                scales, biases = (t.astype(mx.float32) for t in (module.scales, module.biases))
                weight = mx.dequantize(weight, scales, biases, module.group_size, module.bits)
            found[name] = torch.tensor(weight.astype(mx.float32).tolist())
        return found


class TestCompressedTensors(RuntimeContract):
    runtime = "transformers"
    holds = tuple(name for name in WEIGHT_ONLY if "affine" not in name)
    loader = (
        "import sys, transformers; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"
    )
    needs = ("compressed_tensors",)
    is_exact = False

    def subject(self, folder: Path) -> Subject:
        return llama(folder)

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModelForCausalLM.from_pretrained(path)
        model(**hf_models.batch())  # the first batch turns codes into floats
        return {name: model.get_parameter(name).detach() for name in source.units}


class TestGguf(RuntimeContract):
    runtime = "gguf"
    holds = tuple(n for n in WEIGHT_ONLY if n not in ("w8g32-zp", "w8g64-affine"))
    loader = "import sys, gguf; gguf.GGUFReader(sys.argv[1])"
    needs = ("gguf", "cyllama")
    is_exact = False

    def subject(self, folder: Path) -> Subject:
        model = gguf_models.tiny("llama", num_hidden_layers=3)
        batch, other = (gguf_models.calibration(n, t).batches[0] for n, t in ((2, 24), (3, 9)))
        return Subject(model, [batch], other, gguf_models.tokenizer_folder(folder))

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        from mixq.export.gguf.architecture import described
        from tests.export.test_gguf_file import gguf, tensors

        read, model = tensors(path), described(source.model)
        table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model.architecture.name.upper()], 3)
        found = {}
        for name, unit in source.units.items():
            place = next(p for n in unit.names if (p := table.get_name(n, (".weight",))) in read)
            order = np.argsort(model.row_order(unit.names[0], unit.packed.rows))
            found[name] = torch.from_numpy(read[place][order])
        return found


@pytest.mark.slow
class TestGenai(RuntimeContract):
    runtime = "onnxruntime-genai"
    options: ClassVar[Mapping[str, Any]] = {"activations": "float"}
    holds = FORMATS
    loader = "import sys, onnxruntime_genai; onnxruntime_genai.Model(sys.argv[1])"
    needs = ("onnxruntime_genai",)
    is_exact = False

    def subject(self, folder: Path) -> Subject:
        return llama(folder, gguf_models.tokenizer_folder(folder))

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        from tests.export.genai.test_folders import initializers, rows_of

        stored = initializers(path)
        return {
            name: stood_for(unit, {part: rows_of(stored, unit, part) for part in parts_of(unit)})
            for name, unit in source.units.items()
        }


def parts_of(unit: Unit) -> list[str]:
    """What is stored of a unit."""
    return [part for part in unit.packed.tensors if not part.startswith("input_")]


def test_none_is_left_out() -> None:
    tested = {kind.runtime for kind in RuntimeContract.__subclasses__()}
    assert tested >= set(RUNTIMES)
