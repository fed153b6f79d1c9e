"""Calibration data from files of tensors and from functions."""

from __future__ import annotations

import inspect
import io
import math
import tokenize
import zipfile
import zlib
from lzma import LZMAError
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
from mixq.files import one_line, read_bytes_bounded
from mixq.sources.function import call_function
from mixq.sources.loaded import LoadedModel

BATCH_SIZE: Final = 16
"""Samples that run at once: a file of a thousand images must not be one forward pass."""
FILE_BYTES: Final = 4 * 2**30
"""Largest .npz that is read, and the most that one may unpack to; calibration needs megabytes."""
UNPACKED_BYTES: Final = 64 * 2**20
PACKED_TO: Final = 50
"""A file that unpacks to more than `UNPACKED_BYTES` may be this many times smaller, not more."""
_DAMAGE: Final = (
    zipfile.BadZipFile, OSError, EOFError, ValueError, TypeError, MemoryError, KeyError,
    NotImplementedError, RuntimeError, OverflowError, zlib.error, LZMAError, tokenize.TokenError,
    SyntaxError,
)  # fmt: skip
"""What zipfile, its decompressors and NumPy's reader of headers raise for damaged archives."""


def load_safetensors(path: Path, loaded: LoadedModel) -> Calibration:
    """Batches from a safetensors file; see `as_batch` for what the names mean.

    Raises:
        SourceError: if the file is damaged.
        CalibrationError: if the tensors break a rule of Calibration.
    """
    try:
        # Not mapped: whoever writes to the file while mixq runs changes nothing.
        tensors = load_file(path, backend="pread")
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise SourceError(
            f"calibration {str(path)!r} is no intact safetensors file: {one_line(error)}"
        ) from error
    return _named(path, tensors, loaded)


def load_npz(path: Path, loaded: LoadedModel) -> Calibration:
    """Batches from a NumPy archive, as `load_safetensors`; pickled objects are refused.

    Raises:
        SourceError: if the file is damaged, too large unpacked, or holds something else.
        CalibrationError: if the arrays break a rule of Calibration.
    """
    what = f"calibration {one_line(repr(str(path)))}"
    # Once and whole: a file that is opened twice may be two files.
    content = read_bytes_bounded(path, FILE_BYTES, SourceError, "calibration")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_sizes(what, archive, len(content))
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except SourceError:
        raise
    except _DAMAGE as error:
        raise SourceError(f"{what} is no intact .npz of numbers: {one_line(error)}") from error
    return _named(path, tensors, loaded)


def _check_sizes(what: str, archive: zipfile.ZipFile, file_bytes: int) -> None:
    """Refuse an archive that unpacks to too much, or an array larger than what is stored of it.

    Raises:
        SourceError: naming the archive.
        ValueError: for a header that NumPy does not take.
    """
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    most = min(FILE_BYTES, max(UNPACKED_BYTES, PACKED_TO * file_bytes))
    if unpacked > most:
        raise SourceError(
            f"{what} unpacks to {unpacked} bytes, but may have at most {most}; pass fewer "
            "samples, or an archive that is not compressed"
        )
    for member in members:
        with archive.open(member) as stream:
            if np.lib.format.read_magic(stream) == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        # NumPy takes the memory for the whole array before it reads the first number.
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"an array of {math.prod(shape)} numbers has not so many bytes")


def _named(path: Path, tensors: dict[str, Tensor], loaded: LoadedModel) -> Calibration:
    """`as_calibration`, with the file's name before what is wrong with its content."""
    try:
        return as_calibration(tensors, loaded)
    except CalibrationError as error:
        raise CalibrationError(f"calibration {one_line(repr(str(path)))}: {error}") from error


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
