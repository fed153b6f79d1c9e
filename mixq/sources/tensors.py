"""Calibration data from files of tensors and from functions."""

from __future__ import annotations

import inspect
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mixq.batch import Batch
from mixq.calibration import Calibration, in_batches
from mixq.errors import CalibrationError, SourceError
from mixq.sources.function import call_function
from mixq.sources.loaded import LoadedModel

BATCH_SIZE: Final = 16
"""Samples that run at once: a file of a thousand images must not be one forward pass."""
UNPACKED_BYTES: Final = 4 * 2**30
"""Most that a compressed .npz may unpack to; calibration needs megabytes."""


def load_safetensors(path: Path, loaded: LoadedModel) -> Calibration:
    """Batches from a safetensors file; see `as_batch` for what the names mean.

    Raises:
        SourceError: if the file is damaged.
        CalibrationError: if the tensors break a rule of Calibration.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise SourceError(
            f"calibration {str(path)!r} is no intact safetensors file: {error}"
        ) from error
    return as_calibration(tensors, loaded)


def load_npz(path: Path, loaded: LoadedModel) -> Calibration:
    """Batches from a NumPy archive, as `load_safetensors`; pickled objects are refused.

    Raises:
        SourceError: if the file is damaged, too large unpacked, or holds something else.
        CalibrationError: if the arrays break a rule of Calibration.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > UNPACKED_BYTES:
            raise SourceError(
                f"calibration {str(path)!r} unpacks to {unpacked} bytes, but may have at most "
                f"{UNPACKED_BYTES}; pass fewer samples"
            )
        with np.load(path, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except SourceError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, TypeError, MemoryError) as error:
        raise SourceError(
            f"calibration {str(path)!r} is no intact .npz of numbers: {error}"
        ) from error
    return as_calibration(tensors, loaded)


def load_from_function(spec: str) -> Calibration:
    """What a function returns, or the calibration if it returns (model, calibration, ...).

    Raises:
        SourceError: if there is no such function, or it fails.
        CalibrationError: if it returns something else than calibration data.
    """
    result = call_function(spec)
    if isinstance(result, tuple) and len(result) > 1 and isinstance(result[0], nn.Module):
        result = result[1]
    return Calibration.of(result)


def as_calibration(tensors: dict[str, Tensor], loaded: LoadedModel) -> Calibration:
    """Named tensors in batches that the model takes.

    Raises:
        CalibrationError: if the tensors break a rule of Calibration, or are fewer samples than the
            model's own batch size.
    """
    calibration = Calibration.of(as_batch(tensors, loaded.model))
    size = loaded.batch_size
    return in_batches(calibration.batches[0], size or BATCH_SIZE, whole=size is not None)


def as_batch(tensors: dict[str, Tensor], model: nn.Module) -> Batch:
    """Named tensors as arguments of the model's forward.

    The names 0, 1, ... are positions. A single tensor under any other name that is no argument
    of forward is the first position. Everything else is a keyword argument.

    Raises:
        CalibrationError: if there are no tensors.
    """
    if not tensors:
        raise CalibrationError("calibration file has no tensors; save at least one input")
    positions = [str(index) for index in range(len(tensors))]
    if set(tensors) == set(positions):
        return tuple(tensors[position] for position in positions)
    if len(tensors) == 1 and not set(tensors) <= set(inspect.signature(model.forward).parameters):
        return next(iter(tensors.values()))
    return dict(tensors)
