"""Batch norms: their running statistics, estimated again under quantized weights.

Source: Nagel et al., "Overcoming Oscillations in Quantization-Aware Training", ICML 2022, which
re-estimates them after training; the plain average over batches is torch's `momentum=None`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixq.batch import Batch
from mixq.graph.state import StoredTensor
from mixq.training.student import Student

_STATISTICS = ("running_mean", "running_var")
_COUNT = "num_batches_tracked"


def estimated_statistics(
    student: Student, stored: Mapping[str, StoredTensor], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Means and variances of what enters every batch norm, averaged over batches, by buffer name.

    While they are estimated, each batch is normalised by its own; the model's are left alone.

    Args:
        student: whose weights are used.
        stored: the model's stored tensors by name.
        batches: of more than one value per channel each.
    """
    paths = [path for path, module in student.model.named_modules() if _has_statistics(module)]
    leaves = (*_STATISTICS, _COUNT)
    names = [f"{path}.{leaf}" if path else leaf for path in paths for leaf in leaves]

    # Copies, because a batch norm in training mode writes into its buffers.
    fresh = {name: torch.zeros_like(stored[name].tensor) for name in names if name in stored}
    with torch.no_grad():
        tensors = student.tensors() | fresh
    with student.running(), _renewing([student.model.get_submodule(path) for path in paths]):
        for batch in batches:
            student.output(batch, tensors)
    return {name: tensor for name, tensor in fresh.items() if not name.endswith(_COUNT)}


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


@contextmanager
def _renewing(modules: list[nn.Module]) -> Iterator[None]:
    """Batch norms take the plain average over all batches; put back whatever happens."""
    momenta = [module.momentum for module in modules]
    try:
        for module in modules:
            module.training, module.momentum = True, None  # type: ignore[assignment]
        yield
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.training, module.momentum = False, momentum
