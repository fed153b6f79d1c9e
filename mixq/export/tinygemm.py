"""Low-bit products inside PyTorch: torchao's tiled int4 layout, and int8 by channels.

On CUDA this is the fast path of torchao's Int4WeightOnlyConfig with `tile_packed_to_4d`, aten's
tinygemm kernels (aten/src/ATen/native/cuda/int4mm.cu), which take bfloat16; the operators are
torch's own, so torchao itself is not needed. On a CPU the same layout has kernels of its own,
which take float32, exactly and slowly: there `Plan.compile` is the faster way. Codes are the
plan's; in bfloat16 their scales keep 8 bits of mantissa, as everywhere on that path.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from mixq.apply import apply
from mixq.export.source import Unit, units_of
from mixq.graph.copying import copied
from mixq.plan import Plan

GROUPS: Final = (32, 64, 128, 256)
INNER_TILES: Final = 8
"""Of 16 columns, which a thread block takes at once; torchao's own choice."""
ROWS: Final = 16
"""A multiple of rows that both kernels take."""


class Int4Linear(nn.Module):
    """x W^T + bias with 4-bit weights in groups: W = (code - 8) x scale + middle.

    Args:
        unit: at 4 bits, of a linear layer that `takes_int4`.
        bias: of the layer, or None.
        device, dtype: where and in what it computes; bfloat16 on CUDA.
    """

    steps: Tensor
    codes: Tensor

    def __init__(
        self, unit: Unit, bias: Tensor | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.group_size = unit.packed.format.group_size or unit.packed.columns
        self.out_features, self.in_features = unit.packed.rows, unit.packed.columns
        codes = torch.from_numpy(unit.codes)
        scales = torch.from_numpy(unit.scales).float()
        middle = torch.zeros_like(scales)
        if unit.zeros is not None:
            middle = (8 - torch.from_numpy(unit.zeros).float()) * scales
        elif unit.minimums is not None:
            middle = torch.from_numpy(unit.minimums).float() + 8 * scales
        # (groups, rows, 2), as both kernels read them.
        steps = torch.stack([scales.T, middle.T], dim=-1).contiguous()
        self.register_buffer("steps", steps.to(device, dtype))
        self.register_buffer("codes", _tiled(codes, device))
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device, dtype), False)

    def forward(self, x: Tensor) -> Tensor:
        """The product, (..., rows), in the dtype of the layer."""
        flat = x.reshape(-1, self.in_features).to(self.steps.dtype)
        multiply: Any = (
            torch.ops.aten._weight_int4pack_mm
            if flat.is_cuda
            else torch.ops.aten._weight_int4pack_mm_for_cpu
        )
        product: Tensor = multiply(flat, self.codes, self.group_size, self.steps)
        product = product.reshape(*x.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias


class Int8Linear(nn.Module):
    """x W^T + bias with 8-bit weights and one scale per row.

    Args:
        unit: at 8 bits, of a linear layer that `takes_int8`.
        bias: of the layer, or None.
        device, dtype: where and in what it computes; bfloat16 on CUDA.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self, unit: Unit, bias: Tensor | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        codes = torch.from_numpy(unit.codes).to(torch.int16) - 128
        scales = torch.from_numpy(unit.scales)[:, 0]
        self.out_features = unit.packed.rows
        self.register_buffer("codes", codes.to(torch.int8).to(device))
        self.register_buffer("scales", scales.to(device, dtype))
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device, dtype), False)

    def forward(self, x: Tensor) -> Tensor:
        """The product, (..., rows), in the dtype of the layer."""
        flat = x.reshape(-1, x.shape[-1]).to(self.scales.dtype)
        product: Tensor = torch.ops.aten._weight_int8pack_mm(flat, self.codes, self.scales)
        product = product.reshape(*x.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias


def accelerate(
    plan: Plan,
    model: nn.Module,
    device: str | torch.device = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[nn.Module, dict[str, str]]:
    """A copy of the applied model whose linear layers run low-bit products of PyTorch itself.

    Args:
        plan: made for `model`.
        model: the original; it stays as it is.
        device: where the copy is.
        dtype: in which it computes; the kernels of CUDA take bfloat16 alone.

    Returns:
        The copy, and which units have a kernel; all others are dequantized at every use.

    Raises:
        PlanError: if the plan is for another model.
    """
    applied = apply(plan, model).eval()
    units = units_of(plan, applied)
    place = torch.device(device)
    fast = copied(applied).to(device=place, dtype=dtype)
    kernels = {}
    for name, unit in units.items():
        owners = [fast.get_submodule(alias.rpartition(".")[0]) for alias in unit.names]
        if not all(isinstance(o, nn.Linear) and a.endswith("weight")
                   for o, a in zip(owners, unit.names, strict=True)):  # fmt: skip
            continue
        kind = Int4Linear if takes_int4(unit) else Int8Linear if takes_int8(unit) else None
        if kind is None:
            continue
        kernels[name] = kind.__name__
        for alias in unit.names:
            path = alias.rpartition(".")[0]
            parent, _, leaf = path.rpartition(".")
            old: Any = fast.get_submodule(path)
            setattr(fast.get_submodule(parent), leaf, kind(unit, old.bias, place, dtype))
    return fast, kernels


def takes_int4(unit: Unit) -> bool:
    """Whether the tiled layout holds a unit: whole groups, rows and tiles, plain activations."""
    p, fmt = unit.packed, unit.packed.format
    whole = p.rows % ROWS == 0 and p.columns % (INNER_TILES * 16) == 0
    grouped = fmt.group_size in GROUPS and p.columns % (fmt.group_size or 1) == 0
    return fmt.bits == 4 and fmt.activation == "none" and whole and grouped


def takes_int8(unit: Unit) -> bool:
    """Whether a unit has signed codes and one scale per row."""
    fmt = unit.packed.format
    plain = unit.packed.format.bits == 8 and unit.zeros is None and unit.minimums is None
    return plain and fmt.activation == "none" and fmt.groups_per_row(unit.packed.columns) == 1


def _tiled(codes: Tensor, device: torch.device) -> Tensor:
    """Codes (rows, columns) in the layout of the device's kernel."""
    if device.type == "cuda":
        # Two codes in a byte, the first in the upper half (torchao, tile_packed_to_4d).
        pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8).to(device)
        return torch.ops.aten._convert_weight_to_int4pack(pairs, INNER_TILES)  # type: ignore[no-any-return]
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(  # type: ignore[no-any-return]
        codes.to(torch.int32), INNER_TILES
    )
