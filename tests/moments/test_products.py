"""Moments of what products read, against the same inputs written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from .helpers import Functional, Tied, check, moments_of, normal


class TestProducts:
    @pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
    @pytest.mark.parametrize("leading", [(7,), (3, 5), (2, 3, 4)], ids=str)
    def test_linear(self, leading: tuple[int, ...], bias: bool) -> None:
        x = normal(*leading, 6)
        check(moments_of(nn.Linear(6, 4, bias=bias), x)["weight"], x.reshape(-1, 6))

    def test_batches_are_added(self) -> None:
        batches = [normal(3, 6, seed=0), normal(5, 6, seed=1), normal(1, 6, seed=2)]
        check(moments_of(nn.Linear(6, 4), batches)["weight"], torch.cat(batches))

    def test_bfloat16_model(self) -> None:
        x = normal(9, 6).bfloat16()
        check(moments_of(nn.Linear(6, 4).bfloat16(), x)["weight"], x)

    @pytest.mark.parametrize(
        "run",
        [
            lambda x, w: functional.linear(x, w),
            lambda x, w: x @ w.t(),
            lambda x, w: (w @ x.t()).t(),
            lambda x, w: torch.einsum("ni,oi->no", x, w),
            lambda x, w: torch.bmm(x[None], w.t()[None])[0],
            lambda x, w: torch.bmm(x[:, None], w.t().expand(len(x), -1, -1))[:, 0],
            lambda x, w: torch.bmm(w.expand(len(x), -1, -1), x[:, :, None])[:, :, 0],
            lambda x, w: torch.stack([w @ row for row in x]),
            lambda x, w: torch.stack([row @ w.t() for row in x]),
            lambda x, w: torch.stack([x @ row for row in w], 1),
            lambda x, w: torch.stack([torch.stack([row @ out for out in w]) for row in x]),
            lambda x, w: torch.addmm(torch.ones(4), x, w.t()),
            lambda x, w: torch.cat([x @ w[:2].t(), x @ w[2:].t()], 1),
            lambda x, w: x @ w.t().clone(),
            lambda x, w: x @ w.t().contiguous(),
            lambda x, w: (x.double() @ w.double().t()).float(),
            lambda x, w: functional.conv1d(x[:, :, None], w[:, :, None])[:, :, 0],
            lambda x, w: functional.conv1d(x[:, None], w[:, None])[:, :, 0],
        ],
        ids=[
            *("linear", "matmul", "left", "einsum", "bmm", "expanded", "expanded-left"),
            *("by-column", "by-row", "by-output", "dots", "addmm", "row-slices"),
            *("clone", "contiguous", "double", "convolution", "as-wide-a-kernel"),
        ],
    )
    def test_raw_parameter(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        x, weight = normal(5, 6), normal(4, 6, seed=1)
        model = Functional(weight, run)
        assert torch.allclose(model(x), x @ weight.t() + model(x * 0), atol=1e-5)
        check(moments_of(model, x)["weight"], x)

    def test_inference_mode(self) -> None:
        x = normal(3, 5, 6)
        with torch.inference_mode():
            found = moments_of(nn.Linear(6, 4), x)
        check(found["weight"], x.reshape(-1, 6))

    def test_module_used_twice(self) -> None:
        layer = nn.Linear(6, 6)
        x = normal(5, 6)
        model = nn.Sequential(layer, nn.Tanh(), layer)
        with torch.no_grad():
            check(moments_of(model, x)["0.weight"], torch.cat([x, layer(x).tanh()]))

    def test_inputs_that_are_overwritten(self) -> None:
        x = normal(5, 6)
        model = Twice(lambda y: y.relu_())
        found = moments_of(model, x)
        check(found["first.weight"], x)
        check(found["second.weight"], x.relu())

    def test_equal_inputs_share_memory(self) -> None:
        found = moments_of(Twice(lambda y: y), [normal(5, 6), normal(2, 6, seed=1)])
        assert found["first.weight"] is found["second.weight"]

    def test_inputs_shared_in_one_batch_only(self) -> None:
        batches = [normal(5, 6), normal(2, 6, seed=1) + 9]
        found = moments_of(Twice(lambda y: y if y.mean() < 5 else y * 2), batches)
        check(found["first.weight"], torch.cat(batches))
        check(found["second.weight"], torch.cat([batches[0], batches[1] * 2]))


class Twice(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        a = self.first(x)
        result: Tensor = a + self.second(self.between(x))
        return result


class Experts(nn.Module):
    """Stacked matrices, of which every token meets one."""

    def __init__(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stack = nn.Parameter(normal(3, 8, 16))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.stack)


class TestRowsWithInputsOfTheirOwn:
    def test_tied_head_has_the_heads_moments(self) -> None:
        model = Tied()
        ids = torch.arange(10).reshape(2, 5)
        with torch.no_grad():
            hidden = model.table(ids).sin().reshape(-1, 6)
        found = moments_of(model, ids)
        assert list(found) == ["table.weight"]
        check(found["table.weight"], hidden)

    def test_self_attention(self) -> None:
        x = normal(2, 5, 16)
        found = moments_of(Attention(lambda y: y), x)
        check(found["layer.in_proj_weight"], x.transpose(0, 1).reshape(-1, 16))
        assert found["layer.out_proj.weight"].count == 10

    def test_cross_attention(self) -> None:
        x = normal(2, 5, 16)
        model = Attention(lambda y: y[:, :3].exp())
        memory = x[:, :3].exp().transpose(0, 1).reshape(-1, 16)
        found = moments_of(model, x)["layer.in_proj_weight"]
        check(found, x.transpose(0, 1).reshape(-1, 16), memory, memory)
        assert found.of_rows(48).tolist() == [0] * 16 + [1] * 16 + [2] * 16

    def test_unequal_runs_of_rows(self) -> None:
        def run(x: Tensor, weight: Tensor) -> Tensor:
            return torch.cat([x @ weight[:2].t(), x.exp() @ weight[2:].t()], 1)

        x = normal(5, 6)
        found = moments_of(Functional(normal(8, 6), run), x)["weight"]
        check(found, x, x.exp(), x.exp(), x.exp())

    def test_runs_of_rows_without_a_common_length(self) -> None:
        def run(x: Tensor, weight: Tensor) -> Tensor:
            return torch.cat([x @ weight[:4].t(), x.exp() @ weight[4:].t()], 1)

        x = normal(5, 6)
        found = moments_of(Functional(normal(10, 6), run), x)["weight"]
        check(found, x, x, x.exp(), x.exp(), x.exp())

    def test_a_run_that_meets_more_is_a_group(self) -> None:
        def run(x: Tensor, weight: Tensor) -> Tensor:
            parts = [x @ weight[rows].t() for rows in (slice(0, 2), slice(2, 4))]
            return torch.cat([*parts, x.exp() @ weight[2:].t()], 1)

        batches = [normal(5, 6), normal(3, 6, seed=1)]
        found = moments_of(Functional(normal(4, 6), run), batches)["weight"]
        x = torch.cat(batches)
        check(found, x, torch.cat([x, x.exp()]))

    def test_rows_met_together_and_apart(self) -> None:
        def run(x: Tensor, weight: Tensor) -> Tensor:
            return torch.cat([x @ weight.t(), x.exp() @ weight[2:].t()], 1)

        x = normal(5, 6)
        found = moments_of(Functional(normal(4, 6), run), x)["weight"]
        check(found, x, torch.cat([x, x.exp()]))

    @pytest.mark.parametrize(
        "run",
        [
            lambda x, stack: torch.bmm(x.reshape(3, 4, 16), stack.mT).reshape(12, 8),
            lambda x, stack: torch.cat(
                [part @ matrix.t() for part, matrix in zip(x.split(4), stack, strict=True)]
            ),
            lambda x, stack: torch.ops.aten._grouped_mm(
                x, stack.mT, offs=torch.tensor([4, 8, 12], dtype=torch.int32)
            ),
        ],
        ids=["bmm", "loop", "grouped"],
    )
    def test_experts(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        x = normal(12, 16)
        check(moments_of(Experts(run), x)["stack"], *x.split(4))

    def test_expert_that_nothing_reached(self) -> None:
        x = normal(6, 16)
        found = moments_of(Experts(lambda x, stack: x @ stack[1].t()), x)["stack"]
        check(found, x[:0], x, x[:0])
        assert found.count == 0


class Attention(nn.Module):
    def __init__(self, memory: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(16, 4, batch_first=True)
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory(x)
        output: Tensor = self.layer(x, memory, memory, need_weights=False)[0]
        return output
