"""Work of every layer kind against formulas and torch's own flop counter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv_transpose1d, embedding, linear, scaled_dot_product_attention
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.flop_counter import FlopCounterMode

from mixq.graph.build import build_graph
from mixq.graph.model_graph import ModelGraph
from mixq.graph.operations import describe, shared_out
from mixq.graph.work import Work


class Lambda(nn.Module):
    """`function(parameters, input)` over raw parameters of the given shapes."""

    def __init__(
        self, function: Callable[[list[Tensor], Tensor], Tensor], *shapes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.function = function
        self.p = nn.ParameterList([torch.randn(shape) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(list(self.p), x)


def graph_of(model: nn.Module, *inputs: Tensor) -> ModelGraph:
    graph = build_graph(model, lambda: model(*inputs))
    assert graph.source == "dispatch"
    return graph


@dataclass
class Case:
    """A layer, its input, and the hand-computed MACs and work kinds of its units.

    `other` are MACs that read no unit; `is_known` whether torch's counter sees all of them.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    macs: dict[str, int]
    kinds: str = "gemm"
    other: int = 0
    is_known: bool = True


def x(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def tokens(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape)).view(shape) % 7


def attention() -> nn.Module:
    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return result

    return SelfAttention()


def query_groups(p: list[Tensor], x: Tensor) -> Tensor:
    """Four query heads, two key heads; values wider than keys."""
    q = linear(x, p[0]).view(1, 5, 4, 8).transpose(1, 2)
    k = linear(x, p[1]).view(1, 5, 2, 8).transpose(1, 2)
    return scaled_dot_product_attention(q, k, k, enable_gqa=True)


def wide_values(p: list[Tensor], x: Tensor) -> Tensor:
    q = linear(x, p[0])[None]
    return scaled_dot_product_attention(q, q, x[None])


def fused(p: list[Tensor], x: Tensor) -> Tensor:
    return linear(x, torch.cat(p))


def experts(p: list[Tensor], x: Tensor) -> Tensor:
    return torch.bmm(x.expand(len(p), -1, -1), torch.stack(p))


def low_rank(p: list[Tensor], x: Tensor) -> Tensor:
    return linear(x, p[0] + p[1] @ p[2])


def by_inference(p: list[Tensor], x: Tensor) -> Tensor:
    with torch.inference_mode():
        return linear(x, p[0]) @ p[1]


def grouped(p: list[Tensor], x: Tensor) -> Tensor:
    ends = torch.tensor([2, 6], dtype=torch.int32)
    return torch.ops.aten._grouped_mm(x.bfloat16(), p[0].bfloat16(), ends).float()  # type: ignore[no-any-return]


CASES: dict[str, Case] = {
    "linear": Case(nn.Linear(8, 4), (x(3, 5, 8),), {"weight": 15 * 8 * 4}),
    "linear-vector": Case(nn.Linear(8, 4), (x(8),), {"weight": 8 * 4}),
    "linear-no-bias": Case(nn.Linear(8, 4, bias=False), (x(2, 8),), {"weight": 2 * 8 * 4}),
    "conv1d": Case(nn.Conv1d(4, 6, 3), (x(2, 4, 9),), {"weight": 2 * 7 * 6 * 4 * 3}, "conv"),
    "conv1d-unbatched": Case(nn.Conv1d(4, 6, 3), (x(4, 9),), {"weight": 7 * 6 * 4 * 3}, "conv"),
    "conv2d": Case(
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        (x(2, 4, 8, 8),),
        {"weight": 2 * 16 * 6 * 4 * 9},
        "conv",
    ),
    "conv2d-grouped": Case(
        nn.Conv2d(4, 6, 3, groups=2), (x(2, 4, 8, 8),), {"weight": 2 * 36 * 6 * 2 * 9}, "conv"
    ),
    "depthwise": Case(
        nn.Conv2d(6, 6, 3, groups=6), (x(2, 6, 8, 8),), {"weight": 2 * 36 * 6 * 9}, "conv"
    ),
    "dilated": Case(
        nn.Conv2d(1, 2, 3, dilation=2), (x(1, 1, 8, 8),), {"weight": 16 * 2 * 9}, "conv"
    ),
    "conv3d": Case(nn.Conv3d(2, 3, 2), (x(1, 2, 4, 4, 4),), {"weight": 27 * 3 * 2 * 8}, "conv"),
    # A transposed convolution multiplies every input pixel by the whole kernel.
    "transposed": Case(
        nn.ConvTranspose2d(4, 6, 3, stride=2), (x(2, 4, 5, 5),), {"weight": 50 * 4 * 6 * 9}, "conv"
    ),
    "transposed-grouped": Case(
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        (x(2, 4, 5, 5),),
        {"weight": 50 * 4 * 3 * 9},
        "conv",
    ),
    "embedding": Case(nn.Embedding(9, 16), (tokens(2, 5),), {"weight": 0}, "gather"),
    "embedding-bag": Case(nn.EmbeddingBag(9, 16), (tokens(2, 5),), {"weight": 0}, "gather"),
    "lstm": Case(
        nn.LSTM(8, 4, batch_first=True),
        (x(2, 5, 8),),
        {"weight_ih_l0": 10 * 16 * 8, "weight_hh_l0": 10 * 16 * 4},
        "recurrent",
        is_known=False,
    ),
    "lstm-deep": Case(
        nn.LSTM(8, 4, num_layers=2, bidirectional=True),
        (x(5, 2, 8),),
        {
            f"weight_{kind}_l{layer}{way}": 10 * 16 * (width if kind == "ih" else 4)
            for layer, width in ((0, 8), (1, 8))
            for way in ("", "_reverse")
            for kind in ("ih", "hh")
        },
        "recurrent",
        is_known=False,
    ),
    "lstm-projected": Case(
        nn.LSTM(8, 4, proj_size=2),
        (x(5, 2, 8),),
        {
            "weight_ih_l0": 10 * 16 * 8,
            "weight_hh_l0": 10 * 16 * 2,
            "weight_hr_l0": 10 * 2 * 4,
        },
    ),
    "gru": Case(
        nn.GRU(8, 4), (x(5, 2, 8),), {"weight_ih_l0": 10 * 12 * 8, "weight_hh_l0": 10 * 12 * 4}
    ),
    "rnn": Case(
        nn.RNN(8, 4), (x(5, 2, 8),), {"weight_ih_l0": 10 * 4 * 8, "weight_hh_l0": 10 * 4 * 4}
    ),
    "gru-cell": Case(
        nn.GRUCell(8, 4), (x(2, 8),), {"weight_ih": 2 * 12 * 8, "weight_hh": 2 * 12 * 4}
    ),
    "bilinear": Case(
        nn.Bilinear(3, 4, 5), (x(2, 3), x(2, 4)), {"weight": 2 * 5 * 12}, is_known=False
    ),
    "attention": Case(
        attention(),
        (x(2, 5, 16),),
        {"attention.in_proj_weight": 10 * 48 * 16, "attention.out_proj.weight": 10 * 16 * 16},
        other=2 * 2 * 4 * 5 * 5 * 4,  # both products: batch, heads, queries, keys, head width
        is_known=False,  # torch 2.13 counts no fused attention on the processor
    ),
    "grouped-queries": Case(
        Lambda(query_groups, (32, 8), (16, 8)),
        (x(1, 5, 8),),
        {"p.0": 5 * 32 * 8, "p.1": 5 * 16 * 8},
        other=2 * 4 * 5 * 5 * 8,
        is_known=False,
    ),
    "wide-values": Case(
        Lambda(wide_values, (4, 8)),
        (x(1, 5, 8),),
        {"p.0": 5 * 4 * 8},
        other=5 * 5 * 4 + 5 * 5 * 8,
    ),
    "raw-matmul": Case(Lambda(lambda p, x: x @ p[0], (8, 6)), (x(2, 3, 8),), {"p.0": 6 * 8 * 6}),
    "matrix-first": Case(Lambda(lambda p, x: p[0] @ x, (6, 8)), (x(2, 8, 3),), {"p.0": 6 * 8 * 6}),
    "matrix-vector": Case(
        Lambda(lambda p, x: p[0] @ x, (6, 8)), (x(8),), {"p.0": 6 * 8}, is_known=False
    ),
    "einsum": Case(
        Lambda(lambda p, x: torch.einsum("bsd,de->bse", x, p[0]), (8, 6)),
        (x(2, 3, 8),),
        {"p.0": 6 * 8 * 6},
    ),
    "expert-stack": Case(
        Lambda(lambda p, x: torch.einsum("eio,ebi->ebo", p[0], x), (3, 8, 6)),
        (x(3, 2, 8),),
        {"p.0": 3 * 2 * 8 * 6},
    ),
    "expert-list": Case(
        Lambda(experts, (8, 6), (8, 6), (8, 6)),
        (x(1, 4, 8),),
        {"p.0": 4 * 8 * 6, "p.1": 4 * 8 * 6, "p.2": 4 * 8 * 6},
    ),
    "expert-rows": Case(
        Lambda(grouped, (2, 16, 32)), (x(6, 16),), {"p.0": 6 * 16 * 32}, is_known=False
    ),
    "fused-projections": Case(
        Lambda(fused, (4, 8), (2, 8), (2, 8)),
        (x(3, 8),),
        {"p.0": 3 * 8 * 4, "p.1": 3 * 8 * 2, "p.2": 3 * 8 * 2},
    ),
    "raw-sum": Case(
        Lambda(lambda p, x: x + p[0], (4, 8)), (x(2, 4, 8),), {"p.0": 0}, "elementwise"
    ),
    "raw-lookup": Case(Lambda(lambda p, x: p[0][x], (9, 16)), (tokens(4),), {"p.0": 0}, "gather"),
    "row-choice": Case(
        Lambda(lambda p, x: p[0].index_select(0, x), (9, 16)), (tokens(4),), {"p.0": 0}, "gather"
    ),
    "weight-norm": Case(
        weight_norm(nn.Linear(8, 4)),
        (x(2, 8),),
        {"parametrizations.weight.original0": 0, "parametrizations.weight.original1": 64},
        "elementwise gemm",
    ),
    "inference-mode": Case(
        Lambda(by_inference, (6, 8), (6, 4)), (x(2, 8),), {"p.0": 2 * 8 * 6, "p.1": 2 * 6 * 4}
    ),
    "twice": Case(Lambda(lambda p, x: x @ p[0] @ p[0], (8, 8)), (x(2, 8),), {"p.0": 2 * 2 * 64}),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_macs(case: Case) -> None:
    graph = graph_of(case.model, *case.inputs)
    assert {name: unit.macs for name, unit in graph.units.items()} == case.macs
    kinds = case.kinds.split()
    for unit, kind in zip(graph.units.values(), kinds * len(graph.units), strict=False):
        assert {work.kind for work in unit.work} == {kind}, unit.name
    assert graph.macs == sum(case.macs.values()) + case.other
    if case.is_known:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            case.model.eval()(*case.inputs)
        assert graph.macs * 2 == counter.get_total_flops()


def test_weights_alone_are_folded() -> None:
    """LoRA merged in the forward: the product of weights is a weight, read once."""
    graph = graph_of(Lambda(low_rank, (6, 8), (6, 2), (2, 8)), x(3, 8))
    assert {name: unit.macs for name, unit in graph.units.items()} == {
        "p.0": 3 * 6 * 8,
        "p.1": 0,
        "p.2": 0,
    }
    assert all(unit.work for unit in graph.units.values())
    assert graph.lost == ()


def test_spectral_norm_keeps_the_matrix() -> None:
    graph = graph_of(spectral_norm(nn.Linear(8, 4)).eval(), x(2, 8))
    (unit,) = graph.units.values()
    assert [(work.m, work.n, work.k) for work in unit.work] == [(1, 4, 8), (2, 4, 8)]


def test_constant_indices_look_up() -> None:
    """Positions come from a buffer: nothing of it depends on the input, yet it is read."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(9, 16))
            self.register_buffer("positions", torch.arange(9))

        def forward(self, x: Tensor) -> Tensor:
            assert isinstance(self.positions, Tensor)
            return x + embedding(self.positions[: x.shape[1]], self.table)

    graph = graph_of(Positions(), x(2, 5, 16))
    (unit,) = graph.units.values()
    assert unit.work == (Work("gather", m=5, n=16, output_bytes=5 * 16 * 4),)
    assert len(graph.digraph.edges) == 1


# id: model, input, the single work of its unit
SHAPES: dict[str, tuple[nn.Module, Tensor, Work]] = {
    "linear": (
        nn.Linear(8, 4),
        x(3, 5, 8),
        Work("gemm", m=15, n=4, k=8, input_bytes=15 * 8 * 4, output_bytes=15 * 4 * 4),
    ),
    "left-weights": (
        Lambda(lambda p, x: p[0] @ x, (6, 8)),
        x(8, 3),
        Work("gemm", m=3, n=6, k=8, input_bytes=96, output_bytes=72),
    ),
    "depthwise": (
        nn.Conv2d(6, 6, 3, groups=6),
        x(2, 6, 8, 8),
        Work("conv", 72, 1, 9, groups=6, input_bytes=4 * 768, output_bytes=4 * 432, window=(3, 3)),
    ),
    "transposed": (
        Lambda(lambda p, x: conv_transpose1d(x, p[0]), (4, 6, 3)),
        x(1, 4, 5),
        Work("conv", 5, 4, 18, input_bytes=80, output_bytes=4 * 6 * 7, window=(1, 3)),
    ),
    "embedding": (
        nn.Embedding(9, 16),
        tokens(2, 5),
        Work("gather", m=10, n=16, input_bytes=80, output_bytes=640),
    ),
    "lookup": (
        Lambda(lambda p, x: p[0][x], (9, 4, 4)),
        tokens(2, 5),
        Work("gather", m=10, n=16, input_bytes=80, output_bytes=640),
    ),
    "row-choice": (
        Lambda(lambda p, x: p[0].index_select(0, x), (9, 16)),
        tokens(5),
        Work("gather", m=5, n=16, input_bytes=40, output_bytes=320),
    ),
    "stack": (
        Lambda(lambda p, x: torch.bmm(x, p[0]), (3, 8, 6)),
        x(3, 2, 8),
        Work("gemm", m=2, n=6, k=8, groups=3, input_bytes=192, output_bytes=144),
    ),
    "expanded": (
        Lambda(lambda p, x: p[0].expand(3, -1, -1).bmm(x), (6, 8)),
        x(3, 8, 2),
        Work("gemm", m=6, n=6, k=8, input_bytes=192, output_bytes=144),
    ),
    "half": (
        nn.Linear(8, 4).to(torch.bfloat16),
        x(2, 8).bfloat16(),
        Work("gemm", m=2, n=4, k=8, input_bytes=32, output_bytes=16),
    ),
}


@pytest.mark.parametrize(("model", "given", "work"), SHAPES.values(), ids=SHAPES)
def test_work_as_a_kernel_sees_it(model: nn.Module, given: Tensor, work: Work) -> None:
    (unit,) = graph_of(model, given).units.values()
    assert unit.work == (work,)


@pytest.mark.parametrize("width", [8, 12], ids=["equal", "wider-values"])
def test_fused_attention_of_other_devices(width: int) -> None:
    """Kernels of accelerators take values of another width than keys; the CPU's does not."""
    func = torch.ops.aten._scaled_dot_product_efficient_attention.default
    args = (x(2, 3, 5, 8), x(2, 3, 7, 8), x(2, 3, 7, width))
    parts = describe(func, args, None, {})
    assert sum(work.macs for work, _ in parts) == 2 * 3 * (5 * 7 * 8 + 5 * 7 * width)


def test_activations_times_activations_are_attention() -> None:
    graph = graph_of(Lambda(lambda p, x: (x @ p[0]) @ x.t(), (8, 8)), x(2, 8))
    kinds = [(d["work"].kind, d["units"]) for _, d in graph.digraph.nodes(data=True)]
    assert kinds == [("gemm", ("p.0",)), ("attention", ())]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    transposed=st.booleans(),
)
def test_convolutions_count_like_torch(
    batch: int,
    groups: int,
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    transposed: bool,
) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(
        channels[0] * groups,
        channels[1] * groups,
        kernel,
        stride=stride,
        padding=padding,
        groups=groups,
    )
    given = x(batch, channels[0] * groups, 6, 5)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(given)
    graph = graph_of(layer, given)
    assert graph.macs * 2 == counter.get_total_flops()
    (unit,) = graph.units.values()
    (work,) = unit.work
    assert (work.n * work.groups, work.k) == (unit.rows, unit.columns)


@pytest.mark.parametrize(
    ("work", "sizes", "expected"),
    [
        (Work("gemm", 3, 8, 4, groups=2), [32, 32], [(8, 1), (8, 1)]),
        (Work("gemm", 3, 8, 4), [16, 8, 8], [(4, 1), (2, 1), (2, 1)]),
        (Work("gemm", 3, 8, 4), [30, 2], None),
        (Work("gemm", 3, 8, 4), [0, 0], None),
    ],
    ids=["stacked", "joined", "uneven", "empty"],
)
def test_shared_out(work: Work, sizes: list[int], expected: list[tuple[int, int]] | None) -> None:
    shares = shared_out(work, sizes)
    if expected is None:
        assert shares is None
    else:
        assert shares is not None
        assert [(share.n, share.groups) for share in shares] == expected
        assert sum(share.macs for share in shares) == work.macs
