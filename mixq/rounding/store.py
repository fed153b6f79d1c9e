"""RoundedStore: rounded weights on disk, so that an interrupted run need not round them again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from mixq.errors import OutputError
from mixq.files import is_regular, one_line
from mixq.formats import Format
from mixq.graph.state import StoredTensor
from mixq.packed_units import describe, read_unit, unit_tensors
from mixq.quantize.weights import PackedWeight
from mixq.tensor_file import read_tensors, write_tensors

CODE_VERSION = "rounded-1"
"""Part of the key: changed whenever the same inputs would give other integers."""


class RoundedStore:
    """Packed weights by (unit, format), one file each; without a folder nothing is kept.

    The folder's name carries what the integers depend on, so that those of other weights or other
    data are never read by mistake. A file that is damaged counts as missing.
    """

    def __init__(self, folder: Path | None, *fingerprints: str) -> None:
        key = hashlib.sha256("|".join((CODE_VERSION, *fingerprints)).encode()).hexdigest()
        self._folder = None if folder is None else folder / f"rounded-{key[:16]}"

    def get(self, unit: str, fmt: Format, weight: Tensor) -> PackedWeight | None:
        """What was kept of a unit whose parameter is `weight`; None if nothing was."""
        path = self._path(unit, fmt)
        if path is None or path.parent.is_symlink() or not is_regular(path):
            return None
        item = StoredTensor(names=(unit,), tensor=weight, is_parameter=True)
        try:
            header, tensors, _ = read_tensors(path, OutputError, str(path))
            packed = read_unit(str(path), unit, header, item, tensors, OutputError)
        except OutputError:
            return None
        return packed if packed.format == fmt else None

    def put(self, unit: str, packed: PackedWeight) -> None:
        """Keep a unit's packed weights.

        Raises:
            OutputError: if the file cannot be written; what was kept before stays.
        """
        path = self._path(unit, packed.format)
        if path is None:
            return
        try:
            path.parent.mkdir(exist_ok=True)
            if path.parent.is_symlink():
                raise OutputError(
                    f"{one_line(path.parent)} is a link to another folder; delete it and run the "
                    "same command again"
                )
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{path.parent} cannot be made: {error.strerror or error}; make room and run the "
                "same command again"
            ) from error
        write_tensors(path, unit_tensors(unit, packed), describe(packed))

    def _path(self, unit: str, fmt: Format) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(f"{unit}|{fmt.name}".encode()).hexdigest()[:32]
        return self._folder / f"{name}.safetensors"
