"""Store: measurements on disk as they are made, so that an interrupted run goes on.

One JSON line per measurement, appended and flushed; the name of the file carries what was
measured on what, so a store of other weights or other data is never read by mistake. A last line
that a kill has torn is cut off before going on.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from mixq.errors import OutputError

CODE_VERSION = "measured-1"
"""Part of the key: changed whenever the same inputs would give other numbers."""


class Store:
    """Per-sample output errors by (unit, format name).

    Without a folder it only remembers, for runs that write nothing.
    """

    def __init__(self, folder: Path | None, *fingerprints: str) -> None:
        self._known: dict[tuple[str, str], list[float]] = {}
        self._path: Path | None = None
        if folder is not None:
            key = hashlib.sha256("|".join((CODE_VERSION, *fingerprints)).encode()).hexdigest()
            self._path = folder / f"measurements-{key[:16]}.jsonl"
            self._load(self._path)

    def get(self, unit: str, format_name: str) -> list[float] | None:
        """The errors of a measurement made earlier, or None."""
        return self._known.get((unit, format_name))

    def put(self, unit: str, format_name: str, per_sample: list[float]) -> None:
        """Keep a measurement, on disk at once.

        Raises:
            OutputError: if the file cannot be written; nothing measured before is lost.
        """
        self._known[unit, format_name] = per_sample
        if self._path is None:
            return
        line = json.dumps({"unit": unit, "format": format_name, "errors": per_sample})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror or error}; make room and run "
                "the same command again, it goes on from the measurements before this one"
            ) from error

    def _load(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                key = (str(entry["unit"]), str(entry["format"]))
                errors = [float(value) for value in entry["errors"]]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise OutputError(
                    f"{path} has a line that is no measurement; delete the file to measure again"
                ) from error
            self._known[key] = errors
        if len(whole) < len(data):
            try:
                os.truncate(path, len(whole))
            except OSError as error:
                raise OutputError(
                    f"{path} cannot be written: {error.strerror or error}"
                ) from error
