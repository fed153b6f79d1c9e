"""Store: measurements on disk as they are made, so that an interrupted run goes on.

One JSON line per measurement, appended and flushed; the name of the file carries what was
measured on what, so a store of other weights or other data is never read by mistake. A last line
that a kill has torn is cut off before going on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from mixq.calibration import Calibration
from mixq.errors import OutputError
from mixq.files import open_regular, own_file
from mixq.formats import Format
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.metrics.metric import Metric

CODE_VERSION = "measured-3"
"""Part of the key: changed whenever the same inputs would give other numbers."""


class Store:
    """Per-sample output errors by (unit, format name).

    Without a folder it only remembers, for runs that write nothing. One process at a time.

    Args:
        folder: where the file lies; None for memory alone.
        fingerprints: of everything that errors depend on, the metric among it.
        signed: whether errors may be negative, as increases of a user's loss are.
        kind: what the file's name begins with; `mixq.search.folder` knows them all.

    Raises:
        OutputError: if the folder's file cannot be read, or holds anything but measurements.
    """

    def __init__(
        self,
        folder: Path | None,
        *fingerprints: str,
        signed: bool = False,
        kind: str = "measurements",
    ) -> None:
        self._least = -math.inf if signed else 0.0
        self._known: dict[tuple[str, str], list[float]] = {}
        self._path: Path | None = None
        if folder is not None:
            key = hashlib.sha256("|".join((CODE_VERSION, *fingerprints)).encode()).hexdigest()
            self._path = folder / f"{kind}-{key[:16]}.jsonl"
            self._load(self._path)

    @classmethod
    def of(
        cls,
        folder: Path | None,
        model_fingerprint: str,
        calibration: Calibration,
        rounder: Rounder,
        metric: Metric,
        device: str = "cpu",
        plan: Mapping[str, Format] | None = None,
    ) -> Store:
        """The store of what is measured of a model, on these samples, as this rounder rounds it.

        Numbers of another kind of device are others, and those around a plan that is in place.
        """
        kind = device.partition(":")[0]
        prints = (
            model_fingerprint, calibration.fingerprint, rounder.fingerprint, metric.fingerprint
        )  # fmt: skip
        kinds = [] if kind == "cpu" else [kind]
        if plan is not None:
            kinds += [f"{unit}={fmt.name}" for unit, fmt in sorted(plan.items())]
        return cls(folder, *prints, *kinds, signed=metric.is_signed)

    def get(self, unit: str, format_name: str) -> list[float] | None:
        """The errors of a measurement made earlier, or None."""
        return self._known.get((unit, format_name))

    def put(self, unit: str, format_name: str, per_sample: list[float]) -> None:
        """Keep a measurement, on disk at once.

        Raises:
            OutputError: if the file cannot be written; nothing measured before is lost.
        """
        if self._path is not None:
            line = json.dumps({"unit": unit, "format": format_name, "errors": per_sample})
            try:
                _append(self._path, line.encode() + b"\n")
            except OSError as error:
                raise _unwritable(self._path, error) from error
        self._known[unit, format_name] = per_sample

    def _load(self, path: Path) -> None:
        own_file(path)
        if not path.exists():
            return
        try:
            with open_regular(path) as file:
                data = file.read()
        except OSError as error:
            raise OutputError(
                f"{path} cannot be read: {error.strerror or error}; make it readable or delete it"
            ) from error
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                unit, format_name, errors = _measurement(line, self._least)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise OutputError(
                    f"{path} has a line that is no measurement (line {number}); delete the line, "
                    "or the file to measure again"
                ) from error
            self._known[unit, format_name] = errors
        if len(whole) < len(data):
            try:
                os.truncate(path, len(whole))
            except OSError as error:
                raise _unwritable(path, error) from error


def _append(path: Path, line: bytes) -> None:
    """Append a line whole; what a full disk took of it is cut off again."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(line) < len(line):
                raise OSError(f"only a part of {len(line)} bytes was written")
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _measurement(line: bytes, least: float) -> tuple[str, str, list[float]]:
    entry = json.loads(line)
    unit, format_name, errors = entry["unit"], entry["format"], entry["errors"]
    if not (isinstance(unit, str) and isinstance(format_name, str) and isinstance(errors, list)):
        raise TypeError("a measurement has two names and a list")
    if not errors or not all(type(e) is float and math.isfinite(e) and e >= least for e in errors):
        raise ValueError("errors are finite, and not negative unless they are a loss's")
    return unit, format_name, errors


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror or error}; make room and run the same command "
        "again, it goes on from the measurements before this one"
    )
