"""What is left of elementwise operations, by how a kernel meets its weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import nn

from mixq.batch import call
from mixq.bench.uniform import float_plan, uniform_plan
from mixq.calibration import Calibration
from mixq.cost.fusion import Read, fusion, left_over
from mixq.errors import UsageError
from mixq.export.export import export
from mixq.export.onnx.session import OnnxSession
from mixq.files import parse_json
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.graph.work import OpKind, Work

BATCH = 2


def chain(*ops: str, kind: OpKind = "conv", m: int = 8) -> nx.DiGraph[str]:
    """A unit's node with one elementwise operation behind the other."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    first = "convolution" if kind == "conv" else "addmm"
    for index, op in enumerate((first, *ops)):
        name = f"{index}"
        work = Work(
            kind if index == 0 else "elementwise", m, 4, 4, input_bytes=64, output_bytes=32
        )
        units = ("weight",) if index == 0 else ()
        graph.add_node(name, work=work, units=units, op=f"aten.{op}.default")
        if index:
            graph.add_edge(f"{index - 1}", name)
    return graph


def left(graph: nx.DiGraph[str], read: Read) -> list[str]:
    found = fusion(graph)
    steps = left_over(graph, "0", found.followers.get("0", ()), read, BATCH)
    return [op.removeprefix("aten.").removesuffix(".default") for _, op in steps]


NORM = "_native_batch_norm_legit_no_training"
CONVOLUTIONS: dict[str, tuple[tuple[str, ...], list[str], list[str]]] = {
    "norm and relu": ((NORM, "relu"), [], [NORM, "relu"]),
    "relu": (("relu",), [], []),
    "relu6": (("hardtanh",), [], []),
    "residual": ((NORM, "add"), [], [NORM, "add"]),
    "residual and relu": ((NORM, "add", "relu"), [], [NORM, "add", "relu"]),
    "norm after relu": (("relu", NORM), [], []),
    "pooling": (("max_pool2d",), [], []),
}
"""Operations behind a convolution, what is left with constant weights, with dequantized ones."""


@pytest.mark.parametrize(("ops", "floats", "dequantized"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_behind_convolutions(
    ops: tuple[str, ...], floats: list[str], dequantized: list[str]
) -> None:
    assert left(chain(*ops), "float") == floats
    assert left(chain(*ops), "dequantized") == dequantized


PRODUCTS = {
    "bias, tokens": ((), 8, ["elementwise"], []),
    "bias, one row each": ((), BATCH, [], []),
    "gelu, tokens": (("gelu",), 8, ["biased_gelu"], ["gelu"]),
    "gelu, one row each": (("gelu",), BATCH, ["gelu"], ["gelu"]),
    "relu, tokens": (("relu",), 8, ["elementwise", "relu"], ["relu"]),
    "relu, one row each": (("relu",), BATCH, [], ["relu"]),
}
"""Operations behind a product and its rows, what is left of fp32's and of MatMulNBits's."""


@pytest.mark.parametrize(("ops", "m", "floats", "packed"), PRODUCTS.values(), ids=PRODUCTS)
def test_behind_products(
    ops: tuple[str, ...], m: int, floats: list[str], packed: list[str]
) -> None:
    graph = chain(*ops, kind="gemm", m=m)
    assert left(graph, "float") == floats
    assert left(graph, "dequantized") == floats
    assert left(graph, "packed") == packed


@pytest.mark.parametrize("branches", [1, 2])
def test_a_result_with_two_readers_is_computed(branches: int) -> None:
    graph = chain("relu")
    if branches == 2:
        graph.add_node("x", work=Work("elementwise"), units=(), op="aten.add.Tensor")
        graph.add_edge("0", "x")
    assert fusion(graph).claimed == (frozenset("1") if branches == 1 else frozenset())


def test_padding_and_factors_melt() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    plain = Work("elementwise", input_bytes=64, output_bytes=64)
    graph.add_node("pad", work=plain, units=(), op="aten.constant_pad_nd.default")
    graph.add_node("conv", work=Work("conv", 4, 4, 4), units=("w",), op="aten.convolution.default")
    graph.add_node("scores", work=Work("attention", 4, 4, 4), units=(), op="aten.bmm.default")
    graph.add_node("factor", work=plain, units=(), op="aten.mul.Tensor")
    graph.add_node("alone", work=plain, units=(), op="aten.mul.Tensor")
    graph.add_edges_from([("pad", "conv"), ("scores", "factor")])
    assert fusion(graph).gone == {"pad", "factor"}


def test_heads_are_transposed_where_they_come_from_products() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    product = Work("gemm", 8, 4, 4, output_bytes=128)
    for name in "qk":
        graph.add_node(name, work=product, units=(name,), op="aten.addmm.default")
    graph.add_node("scores", work=Work("attention", 8, 8, 4), units=(), op="aten.bmm.default")
    graph.add_node("soft", work=Work("elementwise"), units=(), op="aten._softmax.default")
    graph.add_node("sums", work=Work("attention", 8, 4, 8), units=(), op="aten.bmm.default")
    graph.add_edges_from([("q", "scores"), ("k", "scores"), ("scores", "soft"), ("soft", "sums")])
    turned = fusion(graph).turned
    assert [op for _, op in turned["scores"]] == ["transpose", "transpose"]
    assert turned["sums"] == ()


class Net(nn.Module):
    """One of everything that is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return torch.nn.functional.gelu(self.linear(x.permute(0, 2, 3, 1)))


ELEMENTWISE = {
    "BatchNormalization": NORM, "Relu": "relu", "Gelu": "gelu", "BiasGelu": "biased_gelu",
    "Add": "elementwise",
}  # fmt: skip


@pytest.mark.parametrize(
    ("fmt", "conv", "linear"),
    [("w32", "float", "float"), ("w4g32-zp", "dequantized", "packed")],
)
def test_a_real_session_agrees(fmt: str, conv: Read, linear: Read, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    batches = [torch.randn(BATCH, 16, 6, 6) for _ in range(4)]
    calibration = Calibration.of(batches)
    own = Format.parse(fmt)
    plan = float_plan(model) if own.bits == 32 else uniform_plan(model, calibration, own)
    file = tmp_path / "net.onnx"
    export(model, plan, file, runtime="onnxruntime", calibration=calibration)
    session = OnnxSession(file, profile=str(tmp_path / "profile"))
    session.run(batches[0])
    text = session.profile().read_text(encoding="utf-8")
    events = parse_json(text, UsageError, "the profile")
    assert isinstance(events, list)
    ran = Counter(
        ELEMENTWISE[event["args"]["op_name"]]
        for event in events
        if event["name"].endswith("_kernel_time") and event["args"]["op_name"] in ELEMENTWISE
    )
    graph = build_graph(model, lambda: call(model, batches[0]), batch_size=BATCH).digraph
    found = fusion(graph)
    expected: Counter[str] = Counter()
    for node, data in graph.nodes(data=True):
        if data["units"]:
            read = conv if data["work"].kind == "conv" else linear
            steps = left_over(graph, node, found.followers.get(node, ()), read, BATCH)
            expected.update(op.removeprefix("aten.").removesuffix(".default") for _, op in steps)
    assert ran == expected
