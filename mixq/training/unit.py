"""TrainedUnit: one quantized unit while it is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from mixq.quantize.codes import Steps, as_codes, nearest, positions, to_groups
from mixq.quantize.packing import unpack
from mixq.quantize.weights import PackedWeight, pack_codes
from mixq.training.lsq import Start, fake_quantized


class TrainedUnit:
    """Scales, minimums and weights of one unit as numbers that Adam can train.

    All are relative to the scales of the start, because a step of Adam has the same size for every
    number: scales as factors, minimums and weights in scales.

    Attributes:
        start: what is relative to what.
        factors: of the scales, shape (rows, groups); 1 at the start.
        shifts: of the minimums, likewise; 0 at the start, None but on the affine grid.
        latent: weights before rounding, shape (rows, groups, size).
    """

    def __init__(self, weight: Tensor, packed: PackedWeight, *, train_weights: bool) -> None:
        """Start from exactly the codes that `packed` holds.

        Args:
            weight: the original parameter.
            packed: its codes.
            train_weights: whether weights are trained too. Then they start where they were if
                their codes are the nearest ones. Otherwise, as after GPTQ, and where steps alone
                are trained, they start on their codes: a weight at the edge to another code soon
                falls back to it, and what the rounding had learned is lost.
        """
        self._packed = packed
        fmt, rows, columns = packed.format, packed.rows, packed.columns
        self.start = Start(fmt, columns, packed.shape, _steps(packed))
        codes = unpack(packed.tensors["codes"], fmt.bits, rows * columns)
        grouped = to_groups(codes.view(rows, columns).to(torch.float32), fmt)
        exact = to_groups(weight.detach().to(torch.float32).reshape(rows, columns), fmt)
        keeps = train_weights and torch.equal(nearest(exact, self.start.steps, fmt), grouped)
        places = positions(exact, self.start.steps, fmt) if keeps else grouped
        self.latent = (places - self.start.zeros).requires_grad_(train_weights)
        self.factors = torch.ones_like(self.start.scales).requires_grad_()
        affine = self.start.steps.minimums is not None
        self.shifts = torch.zeros_like(self.factors).requires_grad_() if affine else None

    @property
    def steps_trained(self) -> dict[str, Tensor]:
        """The trained numbers that belong to scales and minimums, by name."""
        shifts = {} if self.shifts is None else {"shifts": self.shifts}
        return {"factors": self.factors, **shifts}

    @property
    def weights_trained(self) -> dict[str, Tensor]:
        """The trained numbers that belong to weights, by name."""
        return {"latent": self.latent} if self.latent.requires_grad else {}

    def weight(self) -> Tensor:
        """The parameter as the quantized model has it, differentiable."""
        dense = fake_quantized(self.latent, self.factors, self.shifts, self.start)
        return dense.to(self._packed.dtype)

    @torch.no_grad()
    def packed(self) -> PackedWeight:
        """What would be stored now.

        Raises:
            FormatError: if a weight becomes infinite in the parameter's dtype.
        """
        steps = self.start.stored(self.factors, self.shifts)
        codes = self.start.codes(self.latent, steps)
        old = self._packed
        ranges = {name: old.tensors[name] for name in old.tensors if name.startswith("input_")}
        like = torch.empty(old.shape, dtype=old.dtype)
        return pack_codes(as_codes(codes, steps, old.columns), old.format, like, **ranges)


def _steps(packed: PackedWeight) -> Steps:
    zeros = None
    if packed.format.grid == "zero-point":
        scales = packed.tensors["scales"]
        flat = unpack(packed.tensors["zeros"], packed.format.bits, scales.numel())
        zeros = flat.view(scales.shape)
    return Steps(packed.tensors["scales"], zeros, packed.tensors.get("minimums"))
