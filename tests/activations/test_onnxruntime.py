"""ONNX Runtime itself: the same codes, bit for bit, and layers equal within float32 rounding.

What is compared is what a deployed file would hold: DynamicQuantizeLinear with MatMulInteger or
ConvInteger, QuantizeLinear and DequantizeLinear around MatMul and Conv, MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mixq.activations.fake import (
    fake_blocks,
    fake_dynamic,
    fake_static,
    input_codes,
    input_steps,
)
from mixq.activations.input_range import InputRange
from mixq.activations.saturation import saturating_matmul

onnxruntime: Any = pytest.importorskip("onnxruntime")
onnx: Any = pytest.importorskip("onnx")

LAWS = settings(derandomize=True, deadline=None, max_examples=200)
EPS = torch.finfo(torch.float32).eps

NODE = onnx.helper.make_node
FLOAT, UINT8, INT32 = 1, 2, 6


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_bytes(
    nodes: Sequence[Any], constants: dict[str, Tensor], outputs: dict[str, int]
) -> bytes:
    """A graph from float32 `x` of any shape to `outputs` (name: element type)."""
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(nodes),
        "graph",
        [info("x", FLOAT, None)],
        [info(name, kind, None) for name, kind in outputs.items()],
        [onnx.numpy_helper.from_array(t.numpy(), name) for name, t in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    written: bytes = model.SerializeToString()
    return written


def session(model: bytes, optimized: Path | None = None, *, fuse: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fuse else levels.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(opened: Any, x: Tensor) -> list[Tensor]:
    return [torch.from_numpy(np.array(found)) for found in opened.run(None, {"x": x.numpy()})]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def integer_weights(limit: int, *shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-limit, limit + 1, shape, generator=generator).to(torch.int8)


def rounding_bound(x: Tensor, weight: Tensor, terms: int) -> Tensor:
    """What `terms` roundings to float32 of |x| times |weight| transposed can add up to."""
    return terms * EPS * (x.double().abs() @ weight.double().abs().T)


@cache
def dynamic_session() -> Any:
    outputs = {"codes": UINT8, "scale": FLOAT, "zero": UINT8}
    return session(model_bytes([NODE("DynamicQuantizeLinear", ["x"], [*outputs])], {}, outputs))


@cache
def static_session(low: float, high: float) -> Any:
    nodes = [
        NODE("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        NODE("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
    ]
    scale, zero = InputRange(low, high).steps()
    constants = {"scale": scale.reshape(()), "zero": zero.reshape(())}
    return session(model_bytes(nodes, constants, {"codes": UINT8, "y": FLOAT}))


def compare_dynamic(x: Tensor) -> None:
    codes, scale, zero = run(dynamic_session(), x)
    ours_scale, ours_zero = input_steps(x.amin(), x.amax())
    assert torch.equal(ours_scale, scale)
    assert torch.equal(ours_zero.to(torch.uint8), zero)
    assert torch.equal(input_codes(x, ours_scale, ours_zero).to(torch.uint8), codes)
    values = (codes.float() - zero.float()) * scale
    assert torch.equal(fake_dynamic(x), values)


INPUTS = {
    "gaussian": randn(33, 65),
    "outlier": torch.cat((randn(1_000), torch.tensor([1e4]))),
    "positive": randn(100).abs() + 3,
    "negative": -randn(100).abs() - 3,
    "relu": randn(1_000).relu(),
    "grid-halves": torch.arange(-200, 311) / 2,
    "zeros": torch.zeros(5),
    "constant": torch.full((7,), -0.3),
    "one": torch.tensor([5.0]),
    "four-dimensions": randn(2, 3, 5, 7),
    "subnormal": torch.tensor([1e-38, -1e-38, 5e-39]),
    "huge": torch.tensor([3e38, -1e37, 1.0]),
}


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
def test_dynamic_codes_are_identical(x: Tensor) -> None:
    compare_dynamic(x)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1).map(torch.tensor))
@LAWS
def test_dynamic_codes_of_any_numbers_are_identical(x: Tensor) -> None:
    # A range so small that float32 has no scale for it makes ONNX Runtime divide by zero.
    assume(x.abs().max() == 0 or (x.amax().clamp(min=0) - x.amin().clamp(max=0)) / 255 > 0)
    compare_dynamic(x)


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 0.7), (-3.3, 0.0), (0.0, 0.0)])
def test_static_codes_are_identical(x: Tensor, low: float, high: float) -> None:
    codes, values = run(static_session(low, high), x)
    scale, zero = InputRange(low, high).steps()
    assert torch.equal(input_codes(x, scale, zero).to(torch.uint8), codes)
    assert torch.equal(fake_static(x, scale, zero), values)


@given(
    st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=50).map(torch.tensor)
)
@LAWS
def test_static_codes_of_any_numbers_are_identical(x: Tensor) -> None:
    codes, values = run(static_session(-0.123, 4.56), x)
    scale, zero = InputRange(-0.123, 4.56).steps()
    assert torch.equal(input_codes(x, scale, zero).to(torch.uint8), codes)
    assert torch.equal(fake_static(x, scale, zero), values)


def test_onnxruntime_hides_nan_and_we_do_not() -> None:
    x = torch.tensor([float("nan"), 1.0, -1.0])
    codes, _, zero = run(dynamic_session(), x)
    assert codes[0] == 0  # what zero - 127 stands for: a number
    assert zero == 127
    assert fake_dynamic(x).isnan().all()


M, K, N = 6, 37, 9


def matmul_parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, int8 weights (n, k) safe on any CPU, scales and bias (n,)."""
    weight, scales = integer_weights(63, N, K), randn(N, seed=2).abs() / 50 + 0.01
    return randn(M, K), weight, scales, randn(N, seed=3)


@pytest.mark.parametrize("fuse", [False, True], ids=["separate", "fused"])
def test_dynamic_matmul(fuse: bool, tmp_path: Path) -> None:
    x, weight, scales, bias = matmul_parts()
    nodes = [
        NODE("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
        NODE("MatMulInteger", ["codes", "weight", "zero"], ["sums"]),
        NODE("Cast", ["sums"], ["floats"], to=FLOAT),
        NODE("Mul", ["scale", "scales"], ["products"]),
        NODE("Mul", ["floats", "products"], ["scaled"]),
        NODE("Add", ["scaled", "bias"], ["y"]),
    ]
    constants = {"weight": weight.T.contiguous(), "scales": scales, "bias": bias}
    model = model_bytes(nodes, constants, {"y": FLOAT})
    (found,) = run(session(model, tmp_path / "optimized.onnx", fuse=fuse), x)
    kernels = operators(tmp_path / "optimized.onnx")
    assert ("DynamicQuantizeMatMul" in kernels) == fuse
    rounded, dequantized = fake_dynamic(x), weight.float() * scales[:, None]
    exact = rounded.double() @ dequantized.double().T + bias
    # Values, weights, product of scales, product with the sum, and the sum with the bias.
    bound = rounding_bound(rounded, dequantized, 5) + EPS * bias.abs()
    assert bool(((found - exact).abs() <= bound).all())


@pytest.mark.parametrize("requantized", [False, True], ids=["float-output", "uint8-output"])
def test_static_matmul(requantized: bool, tmp_path: Path) -> None:
    x, weight, scales, _ = matmul_parts()
    steps = InputRange(-2.0, 3.0).steps()
    output_steps = InputRange(-8.0, 8.0).steps()
    nodes, constants = qdq(weight.T.contiguous(), scales, steps, axis=1)
    nodes.append(NODE("MatMul", ["rounded", "dequantized"], ["y"]))
    model = finished(nodes, constants, output_steps if requantized else None)
    (found,) = run(session(model, tmp_path / "optimized.onnx"), x)
    kernels = operators(tmp_path / "optimized.onnx")
    assert ("QLinearMatMul" if requantized else "MatMulIntegerToFloat") in kernels
    rounded, dequantized = fake_static(x, *steps), weight.float() * scales[:, None]
    exact = rounded.double() @ dequantized.double().T
    if requantized:
        compare_requantized(found, exact, output_steps)
    else:
        bound = rounding_bound(rounded, dequantized, 5)
        assert bool(((found - exact).abs() <= bound).all())


@pytest.mark.parametrize("requantized", [False, True], ids=["float-output", "uint8-output"])
@pytest.mark.parametrize("groups", [1, 8], ids=["dense", "depthwise"])
def test_static_convolution(requantized: bool, groups: int, tmp_path: Path) -> None:
    x, channels = randn(2, 8, 9, 9) + 0.5, 8
    weight = integer_weights(63, channels, 8 // groups, 3, 3)
    scales = randn(channels, seed=2).abs() / 50 + 0.01
    steps = InputRange(-2.0, 3.0).steps()
    output_steps = InputRange(-20.0, 20.0).steps()
    nodes, constants = qdq(weight, scales, steps, axis=0)
    conv = NODE("Conv", ["rounded", "dequantized"], ["y"], pads=[1, 1, 1, 1], group=groups)
    model = finished([*nodes, conv], constants, output_steps if requantized else None)
    (found,) = run(session(model, tmp_path / "optimized.onnx"), x)
    assert ("QLinearConv" in operators(tmp_path / "optimized.onnx")) == requantized
    rounded, dequantized = fake_static(x, *steps), weight.float() * scales.view(-1, 1, 1, 1)
    # Padding comes after quantization and is zero, which the grid holds.
    exact = functional.conv2d(rounded.double(), dequantized.double(), padding=1, groups=groups)
    if requantized:
        compare_requantized(found, exact, output_steps)
    else:
        sizes = functional.conv2d(
            rounded.double().abs(), dequantized.double().abs(), padding=1, groups=groups
        )
        terms = weight[0].numel() + 2  # float32 sums, and the values and weights themselves
        assert bool(((found - exact).abs() <= terms * EPS * sizes).all())


def compare_requantized(found: Tensor, exact: Tensor, steps: tuple[Tensor, Tensor]) -> None:
    """QLinear* round their outputs as well: to the nearest code, or its neighbour at a tie."""
    expected = fake_static(exact.float(), *steps)
    codes = (found - expected) / steps[0]
    assert codes.abs().max() <= 1 + 256 * EPS
    assert (codes.abs() > 0.5).double().mean() < 0.01


def qdq(
    weight: Tensor, scales: Tensor, steps: tuple[Tensor, Tensor], axis: int
) -> tuple[list[Any], dict[str, Tensor]]:
    """Nodes that make `rounded` from `x`, and `dequantized` from int8 weights."""
    nodes = [
        NODE("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        NODE("DequantizeLinear", ["codes", "scale", "zero"], ["rounded"]),
        NODE("DequantizeLinear", ["weight", "scales", "zeros"], ["dequantized"], axis=axis),
    ]
    constants = {
        "weight": weight,
        "scales": scales,
        "zeros": torch.zeros(len(scales), dtype=torch.int8),
        "scale": steps[0].reshape(()),
        "zero": steps[1].reshape(()),
    }
    return nodes, constants


def finished(
    nodes: list[Any], constants: dict[str, Tensor], output: tuple[Tensor, Tensor] | None
) -> bytes:
    """A model whose output is `y`, or `y` rounded to 8 bits."""
    if output is None:
        return model_bytes(nodes, constants, {"y": FLOAT})
    constants = {
        **constants,
        "y_scale": output[0].reshape(()),
        "y_zero": output[1].reshape(()),
    }
    more = [
        NODE("QuantizeLinear", ["y", "y_scale", "y_zero"], ["y_codes"]),
        NODE("DequantizeLinear", ["y_codes", "y_scale", "y_zero"], ["y_rounded"]),
    ]
    return model_bytes([*nodes, *more], constants, {"y_rounded": FLOAT})


def test_dynamic_convolution_is_exact_in_integers() -> None:
    x, weight = randn(2, 8, 9, 9) + 0.5, integer_weights(63, 6, 8, 3, 3)
    nodes = [
        NODE("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
        NODE("ConvInteger", ["codes", "weight", "zero"], ["sums"], pads=[1, 1, 1, 1]),
    ]
    model = model_bytes(nodes, {"weight": weight}, {"sums": INT32})
    (found,) = run(session(model), x)
    scale, zero = input_steps(x.amin(), x.amax())
    codes = input_codes(x, scale, zero) - zero
    expected = functional.conv2d(codes.double(), weight.double(), padding=1)
    assert torch.equal(found.double(), expected)


@pytest.mark.parametrize("rows", [1, 5])
def test_uint8_times_int8_is_exact_or_saturates_as_simulated(rows: int) -> None:
    # Which of the two is the CPU's choice; on most numbers here they differ.
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (rows, K), generator=generator)
    codes[:, 0], codes[:, 1] = 0, 255  # the range is 0..255 and the scale 1
    weight = integer_weights(127, 40, K)
    nodes = [
        NODE("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
        NODE("MatMulInteger", ["codes", "weight", "zero"], ["sums"]),
    ]
    model = model_bytes(nodes, {"weight": weight.T.contiguous()}, {"sums": INT32})
    (found,) = run(session(model), codes.float())
    exact = (codes.long() @ weight.long().T).int()
    simulated = saturating_matmul(codes.to(torch.uint8), weight)
    assert not torch.equal(exact, simulated)
    assert torch.equal(found, exact) or torch.equal(found, simulated)


@pytest.mark.parametrize("weight_kind", ["reduced", "uint8"])
def test_safe_weights_are_exact_on_any_cpu(weight_kind: str) -> None:
    codes = torch.full((3, K), 255)
    codes[:, 0] = 0
    shift = 128 if weight_kind == "uint8" else 0
    weight = integer_weights(63 if weight_kind == "reduced" else 127, 40, K)
    stored = (weight.int() + shift).to(torch.uint8 if shift else torch.int8)
    nodes = [
        NODE("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
        NODE("MatMulInteger", ["codes", "weight", "zero", "weight_zero"], ["sums"]),
    ]
    constants = {
        "weight": stored.T.contiguous(),
        "weight_zero": torch.tensor(shift, dtype=stored.dtype),
    }
    (found,) = run(session(model_bytes(nodes, constants, {"sums": INT32})), codes.float())
    assert torch.equal(found, (codes.long() @ weight.long().T).int())


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("bits", [4, 8])
def test_matmul_nbits_rounds_blocks(block: int, rows: int, bits: int) -> None:
    columns = 256
    x = 3 * randn(rows, columns)
    # The kernel multiplies the stored codes and takes their middle times the sum of the block off
    # again, in float32; with blocks that add up to zero, little is left of that to round.
    x[:, 1::2] = -x[:, ::2]
    middle = 1 << (bits - 1)
    codes = torch.full((columns, columns), middle, dtype=torch.uint8)
    codes.fill_diagonal_(middle + 1)  # the identity, so that the output is the rounded input
    packed = codes if bits == 8 else codes[:, ::2] | (codes[:, 1::2] << 4)
    constants = {
        "weight": packed.reshape(columns, columns // block, -1).contiguous(),
        "scales": torch.ones(columns * columns // block),
    }
    node = NODE(
        "MatMulNBits", ["x", "weight", "scales"], ["y"], domain="com.microsoft",
        K=columns, N=columns, bits=bits, block_size=block, accuracy_level=4,
    )  # fmt: skip
    (found,) = run(session(model_bytes([node], constants, {"y": FLOAT})), x)
    expected = fake_blocks(x, block)
    assert (found - expected).abs().max() <= 8 * EPS * x.abs().max()
