"""Device: where a model is run to be measured. Codes are made on the processor in any case."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from mixq.errors import ModelError, UsageError
from mixq.files import one_line


def check_device(name: str, workers: int = 1) -> str:
    """The device of this name.

    Raises:
        UsageError: if it is neither the processor nor a CUDA device that is there, or if several
            processes would have to share it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device is {name!r:.40}, but it must be cpu, cuda or such as cuda:1")
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise UsageError(
                f"--device is {name}, but torch {torch.__version__} finds {found} CUDA devices "
                "here; leave it out to measure on the processor, or install torch for CUDA"
            )
        if workers > 1:
            raise UsageError(
                f"--workers is {workers}, but on {name} processes would wait for each other; "
                "use one of --workers and --device"
            )
    return name


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer lies; the processor if it has none."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def moved(model: nn.Module, device: str) -> nn.Module:
    """The model itself if it lies there, else a copy that does.

    Raises:
        ModelError: if it cannot be copied, or finds no room.
    """
    here, there = device_of(model), torch.device(device)
    if here.type == there.type and there.index in (None, here.index):
        return model
    try:
        return copy.deepcopy(model).to(device)
    except (RuntimeError, TypeError) as error:  # torch.OutOfMemoryError is one
        raise ModelError(
            f"the model cannot be moved to {device}: {one_line(error, 200)}; leave --device out"
        ) from error
