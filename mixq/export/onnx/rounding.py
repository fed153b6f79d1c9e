"""What MatMulNBits' rounding of activations does to a model's output, and how to keep it small.

With perturbations d of the products of one unit and the Jacobian J from there to the output,
random signs v give E[(v^T J d)^2] = |J d|^2: a backward pass tells the effect of every unit and
every kernel at once. Units round independently of each other, so their squares add up.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.activations.fake import fake_blocks
from mixq.batch import Batch, call
from mixq.export.onnx.kernel import Kernel, kernels
from mixq.export.source import Source
from mixq.sensitivity.outputs import main_output, rows

SAMPLES: Final = 8
PROBES: Final = 16
SEED: Final = 0


@dataclass(frozen=True)
class Effects:
    """Squared effects on the output over its square.

    Attributes:
        kernels: by unit, from the fastest to the most accurate.
        effects: by unit, of each of its kernels.
    """

    kernels: Mapping[str, tuple[Kernel, ...]]
    effects: Mapping[str, tuple[float, ...]]

    def fast(self) -> Effects:
        """Without kernels that are slower than fp32 on one row, as decoding is."""
        kept = {
            name: [i for i, kernel in enumerate(ladder) if kernel.cost <= 1]
            for name, ladder in self.kernels.items()
        }
        return Effects(
            {name: tuple(self.kernels[name][i] for i in kept[name]) for name in kept},
            {name: tuple(self.effects[name][i] for i in kept[name]) for name in kept},
        )

    def of(self, chosen: Mapping[str, Kernel]) -> float:
        """Relative error that these kernels are estimated to make together."""
        parts = [
            self.effects[name][self.kernels[name].index(kernel)] for name, kernel in chosen.items()
        ]
        return math.sqrt(sum(parts))

    def choose(self, tolerance: float) -> dict[str, Kernel]:
        """Kernels whose effects together stay below a relative error.

        Each step goes to the unit whose more accurate kernel takes off most for its time. If the
        most accurate ones do not suffice, those are what is returned.
        """
        place = dict.fromkeys(self.kernels, 0)

        def gain(unit: str) -> tuple[float, int]:
            here, own, cost = place[unit], self.effects[unit], self.kernels[unit]
            steps = range(here + 1, len(own))
            rates = [((own[here] - own[i]) / max(cost[i].cost - cost[here].cost, 1e-3), i)
                     for i in steps]  # fmt: skip
            return max(rates, default=(0.0, here))

        while sum(self.effects[unit][i] for unit, i in place.items()) > tolerance**2:
            best = max(place, key=gain)
            rate, step = gain(best)
            if rate <= 0:
                break
            place[best] = step
        return {unit: self.kernels[unit][i] for unit, i in place.items()}


def activation_effects(source: Source) -> Effects:
    """The effects of every kernel of every unit that is the weight of a linear layer."""
    model = source.restored
    choices: dict[str, tuple[Kernel, ...]] = {}
    modules: dict[str, list[nn.Module]] = {}
    for name, unit in source.units.items():
        owners = [_linear(model, alias) for alias in unit.names]
        found = kernels(unit.packed.format, unit.packed.columns)
        linear = [owner for owner in owners if owner is not None]
        if linear and found and unit.packed.format.activation == "none":
            choices[name], modules[name] = found, linear
    totals = {name: torch.zeros(len(found)) for name, found in choices.items()}
    power = 0.0
    generator = torch.Generator().manual_seed(SEED)
    for batch in source.calibration.take(SAMPLES).batches:
        power += _add(model, batch, modules, choices, totals, generator)
    effects = {name: tuple((total / max(power, 1e-30)).tolist()) for name, total in totals.items()}
    return Effects(choices, effects)


def _add(
    model: nn.Module,
    batch: Batch,
    modules: Mapping[str, list[nn.Module]],
    choices: Mapping[str, tuple[Kernel, ...]],
    totals: dict[str, Tensor],
    generator: torch.Generator,
) -> float:
    """Add one batch's effects to `totals`; the sum of squares of its output."""
    seen: list[tuple[str, nn.Linear, Tensor, Tensor]] = []
    handles = [
        owner.register_forward_hook(_recorder(name, seen))
        for name, owners in modules.items()
        for owner in dict.fromkeys(owners)
    ]
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # A model that reads numbers out of its tensors is told that they have gradients now.
            warnings.simplefilter("ignore", UserWarning)
            output, mask = rows(main_output(call(model, batch)).tensor, batch)
    finally:
        for handle in handles:
            handle.remove()
    shown = mask[..., None].to(output.dtype)
    power = float((output.detach() * shown).square().sum())
    if not seen:
        return power
    additions = [addition for _, _, _, addition in seen]
    gradients = []
    for _ in range(PROBES):
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1.0
        gradients.append(
            torch.autograd.grad(output, additions, signs * shown, retain_graph=True,
                                allow_unused=True)
        )  # fmt: skip
    sums = {name: torch.zeros(PROBES, len(choices[name])) for name in modules}
    for index, (name, owner, x, _) in enumerate(seen):
        for step, kernel in enumerate(choices[name]):
            if kernel.rounds:
                change = functional.linear(fake_blocks(x, kernel.block) - x, owner.weight)
                for probe, found in enumerate(gradients):
                    if found[index] is not None:
                        sums[name][probe, step] += (found[index] * change).sum()
    for name, products in sums.items():
        totals[name] += products.square().mean(0)
    return power


def _recorder(
    name: str, seen: list[tuple[str, nn.Linear, Tensor, Tensor]]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, nn.Linear)
        addition = torch.zeros_like(output, requires_grad=True)
        seen.append((name, module, args[0].detach(), addition))
        return output + addition

    return hook


def _linear(model: nn.Module, name: str) -> nn.Module | None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    return owner if isinstance(owner, nn.Linear) and leaf == "weight" else None
