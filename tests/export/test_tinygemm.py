"""Products of PyTorch itself: the plan's codes in torchao's tiled layout, on a CPU and on CUDA."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixq.export.tinygemm import accelerate
from mixq.formats import Format
from tests.plans import plan_for

INT4 = ("w4g32", "w4g64-zp", "w4g128-affine", "w4g32-signed")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 32), nn.Linear(32, 5))


@pytest.mark.parametrize("fmt", [*INT4, "w8"])
def test_a_cpu_computes_what_the_plan_does(fmt: str) -> None:
    model = network().eval()
    plan = plan_for(model, Format.parse(fmt))
    fast, kernels = accelerate(plan, model, "cpu", torch.float32)
    x = torch.randn(3, 7, 256)
    with torch.no_grad():
        expected, found = plan.apply(model)(x), fast(x)
    # Rows of 32 columns are no whole tile, and 5 rows none either; int8 takes any.
    assert list(kernels) == (["0.weight", "2.weight"] if fmt != "w8" else
                             ["0.weight", "2.weight", "3.weight"])  # fmt: skip
    assert float((found - expected).norm() / expected.norm()) < 2e-6


@pytest.mark.parametrize("fmt", ["w2g32-zp", "w8g16", "w4", "w4a8-dynamic", "w16"])
def test_what_has_no_kernel_is_dequantized(fmt: str) -> None:
    model = network().eval()
    plan = plan_for(model, Format.parse(fmt))
    fast, kernels = accelerate(plan, model, "cpu", torch.float32)
    x = torch.randn(3, 256)
    assert kernels == {}
    with torch.no_grad():
        torch.testing.assert_close(fast(x), plan.apply(model)(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("fmt", [*INT4, "w8"])
def test_cuda_computes_what_the_plan_does(fmt: str) -> None:
    model = network().eval()
    plan = plan_for(model, Format.parse(fmt))
    fast, kernels = accelerate(plan, model)
    x = torch.randn(3, 256)
    with torch.no_grad():
        expected = plan.apply(model)(x)
        found = fast(x.cuda().bfloat16()).float().cpu()
    assert "0.weight" in kernels
    # bfloat16 has 8 bits of mantissa; three layers.
    assert float((found - expected).norm() / expected.norm()) < 3 * 2**-8
