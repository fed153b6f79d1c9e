"""QDQ: standard ONNX of every layer, the plan's integers, integer kernels, and vendors' limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import ExportError, UsageError
from mixq.export.onnx.session import OnnxSession
from mixq.export.qdq.runtime import Qdq
from mixq.export.source import Source
from mixq.export.verify import output_difference
from mixq.formats import Format
from mixq.sensitivity.outputs import floating_outputs
from tests.export.models import CASES, copies_of, source_of
from tests.export.test_onnxruntime import EXACT
from tests.plans import calibrated_plan_for

WEIGHT_ONLY = (
    "w32", "w16", "w16-bf16", "w8", "w8g64", "w8g32-signed", "w8g16-zp", "w8-reduced",
    "w4", "w4g32", "w4g48-zp", "w4g24-zp", "w4-zp", "w4g256", "w4-signed",
)  # fmt: skip
STATIC = (
    *("w8a8-static", "w8a8-reduced-static", "w4a8-static", "w8a8g32-static"),
    *("w8a8-zp-static", "w4a8g16-zp-static"),
)
FORMATS = {"recurrent": WEIGHT_ONLY[3:6], "attention": WEIGHT_ONLY[3:6]}
WITH_RANGES = ("linear", "linear-3d", "linear-odd", "convolution", "depthwise", "convolution-1d",
               "transposed-convolution", "named")  # fmt: skip


def written(source: Source, path: Path, **options: Any) -> OnnxSession:
    """Exactly the predicted bytes, and loaded."""
    runtime = Qdq(**options)
    runtime.check(source)
    done = runtime.write(source, path)
    assert done.tensor_bytes == done.predicted_bytes
    return runtime.open(path)


@pytest.fixture(scope="module", params=list(CASES))
def weight_only(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    formats = FORMATS.get(request.param, WEIGHT_ONLY)
    source = copies_of(request.param, *formats)
    path = tmp_path_factory.mktemp("case") / "model.onnx"
    written(source, path, outputs="no").close()
    return formats, source, path


def test_the_file_computes_what_the_plan_does(weight_only: Any) -> None:
    """By ONNX's own rules: without ONNX Runtime's fusions, which round activations."""
    formats, source, path = weight_only
    off = differences(source, without_fusions(path))
    assert {f: d for f, d in zip(formats, off, strict=True) if d > EXACT} == {}


def test_fused_it_stays_within_its_tolerance(weight_only: Any) -> None:
    _, source, path = weight_only
    assert max(differences(source, OnnxSession(path))) < 2e-2


def test_the_file_holds_the_plans_integers(weight_only: Any) -> None:
    _, source, path = weight_only
    stored = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    for name, unit in source.units.items():
        if unit.is_float:
            half = unit.packed.tensors["half"].float().numpy()
            assert np.array_equal(stored[f"{name}.half"].astype(np.float32), half)
            continue
        shape, rows = unit.codes.shape, unit.packed.rows
        middle = 0 if unit.zeros is not None else 1 << (unit.packed.format.bits - 1)
        codes = stored[f"{name}.codes"].astype(np.int16) + middle
        assert any(
            np.array_equal(c, unit.codes) for c in (codes.reshape(shape), codes.T.reshape(shape))
        )
        for part, expected in (("scales", unit.scales), ("zeros", unit.zeros)):
            if expected is None:
                assert f"{name}.{part}" not in stored
                continue
            found = stored[f"{name}.{part}"].astype(np.float32)
            both = (found, found.T) if found.ndim == 2 else (found,)
            assert any(np.array_equal(f.reshape(rows, -1), expected) for f in both)


@pytest.mark.parametrize("case", WITH_RANGES)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "by-the-standard"])
def test_rounded_activations_are_those_that_were_measured(
    case: str, fused: bool, static: dict[str, tuple[Source, Path]]
) -> None:
    source, path = static[case]
    session = OnnxSession(path) if fused else without_fusions(path)
    off = dict(zip(STATIC, differences(source, session), strict=True))
    # A number between two codes may be rounded either way.
    assert {fmt: difference for fmt, difference in off.items() if difference > 1e-3} == {}


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Source, Path]]:
    """Sources with ranges of activations, and their files."""
    made = {}
    for case in WITH_RANGES:
        source, path = copies_of(case, *STATIC), tmp_path_factory.mktemp("static") / "model.onnx"
        written(source, path, outputs="no").close()
        made[case] = source, path
    return made


@pytest.mark.parametrize(
    ("case", "outputs", "kernel"),
    [
        ("linear-3d", "no", "MatMulIntegerToFloat"),
        ("linear-3d", "yes", "QLinearMatMul"),
        ("convolution", "yes", "QLinearConv"),
        ("depthwise", "yes", "QLinearConv"),
    ],
)
def test_integer_kernels_run(case: str, outputs: str, kernel: str, tmp_path: Path) -> None:
    source = source_of(case, "w8a8-reduced-static")
    path = tmp_path / "model.onnx"
    written(source, path, outputs=outputs).close()
    session = OnnxSession(path, profile=str(tmp_path / "profile"))
    assert output_difference(source, session) < 2e-2
    assert kernel in kernels(session)


def test_ranges_of_products_leave_the_bias_out(tmp_path: Path) -> None:
    """A product and its sum with the bias are rounded each in its own range."""
    torch.manual_seed(0)
    model, data = nn.Linear(32, 8).eval(), Calibration.of(torch.randn(4, 6, 32))
    with torch.no_grad():
        model.bias.fill_(40.0)
    plan = calibrated_plan_for(model, data, Format.parse("w8a8-static"))
    source = Source.of(model, plan, data)
    session = written(source, tmp_path / "model.onnx", outputs="yes")
    found = session.run(data.batches[0])["output"]
    with torch.no_grad():
        expected = source.applied(data.batches[0])
    step = float(expected.max()) / 255
    assert float((found - expected).abs().max()) < step


@pytest.mark.parametrize("case", ["linear", "linear-3d", "convolution"])
def test_symmetric_outputs_are_int8(case: str, tmp_path: Path) -> None:
    source = source_of(case, "w8a8-static")
    session = written(source, tmp_path / "model.onnx", target="tensorrt", outputs="yes")
    assert output_difference(source, session) < 2e-2


def test_four_bit_products_run_packed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    source = source_of("linear-3d", "w4g32")
    written(source, path).close()
    session = OnnxSession(path, profile=str(tmp_path / "profile"))
    session.run(source.calibration.batches[0])
    assert "MatMulNBits" in kernels(session)


class Block(nn.Module):
    """Two convolutions and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU())
        self.head = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


def block(*formats: str) -> Source:
    torch.manual_seed(0)
    model, data = Block().eval(), Calibration.of(torch.randn(16, 3, 8, 8) + 1)
    return Source.of(model, calibrated_plan_for(model, data, *map(Format.parse, formats)), data)


def test_tensorrt_gets_no_zero_points_and_signed_integers(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    session = written(block("w8a8-static", "w8a8-static", "w4g32"), path, target="tensorrt")
    graph = onnx.load(path).graph
    stored = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    pairs = [
        node
        for node in graph.node
        if node.op_type.endswith("quantizeLinear")
        or "Quantize" in node.op_type
        or "DequantizeLinear" in node.op_type
    ]
    assert len(pairs) == 2 + 2 + 3
    for node in pairs:
        if len(node.input) > 2:
            zero = stored[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.input[0] in stored:
            assert stored[node.input[0]].dtype.name in ("int8", "int4")
    assert output_difference(block("w8a8-static", "w8a8-static", "w4g32"), session) < 2e-2


def test_qnn_gets_every_output_of_a_quantized_layer(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    written(block("w8a8-static"), path, target="qnn")
    graph = onnx.load(path).graph
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert readers[node.output[0]] == ["QuantizeLinear"]
            biases = [n for n in graph.node if n.output[0] == node.input[2]]
            assert [n.op_type for n in biases] == ["DequantizeLinear"]


REFUSED = {
    "two-bits": (
        "linear",
        "w2g16",
        {},
        "is planned as w2g16, but a QDQ file takes 32 and 16 bits",
    ),
    "affine": ("linear", "w4g32-affine", {}, "search with --bits 32,8,4 --grids symmetric"),
    "dynamic": ("linear", "w8a8-dynamic", {}, "search with --activations static"),
    "tensorrt-zeros": ("linear", "w4g32-zp", {"target": "tensorrt"}, "takes no zero points"),
    "tensorrt-blocks": ("linear", "w8g32", {"target": "tensorrt"}, "blocks in 4-bit matrix prod"),
    "tensorrt-conv": ("depthwise", "w4g16", {"target": "tensorrt"}, "blocks in 4-bit matrix prod"),
    "tensorrt-4": ("linear", "w4a8-static", {"target": "tensorrt"}, "with floating-point activ"),
    "qnn-blocks": ("linear", "w8g32", {"target": "qnn"}, "one scale per tensor or channel"),
    "qnn-zeros": ("linear", "w4-zp", {"target": "qnn"}, "4-bit weights without zero points"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_target_cannot_read_is_refused(name: str) -> None:
    case, fmt, options, message = REFUSED[name]
    with pytest.raises(ExportError, match=message) as caught:
        Qdq(**options).check(source_of(case, fmt))  # type: ignore[arg-type]
    assert "'weight' is planned as" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plain_file_says_what_the_targets_would_refuse(tmp_path: Path) -> None:
    notes = " ".join(Qdq().write(source_of("linear", "w8g32-zp"), tmp_path / "model.onnx").notes)
    assert "TensorRT takes no zero points" in notes
    assert "QNN takes one scale per tensor or channel" in notes
    assert "untested on TensorRT's and QNN's hardware" in notes


@pytest.mark.parametrize("options", [{"target": "tpu"}, {"outputs": "some"}, {"target": ""}])
def test_unknown_words_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"but it takes (onnx, tensorrt, qnn|auto, yes, no)"):
        Qdq(**options)


def differences(source: Source, session: OnnxSession) -> list[float]:
    """Of each output."""
    (batch,) = source.calibration.batches
    with torch.no_grad():
        expected = floating_outputs(call(source.applied, batch))
    found = session.run(batch)
    return [float((found[n] - expected[n]).norm() / expected[n].norm()) for n in expected]


def without_fusions(path: Path) -> OnnxSession:
    session = OnnxSession(path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session._session = onnxruntime.InferenceSession(str(path), options)
    return session


def kernels(session: OnnxSession) -> set[str]:
    """Operators that ran, as ONNX Runtime's own timings have them."""
    events = json.loads(session.profile().read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}
