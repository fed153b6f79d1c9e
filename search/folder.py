"""RunFolder: where a run keeps what it measured, and which run it is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mixq.errors import OutputError
from mixq.files import parse_json, read_bounded, write_json_atomic

RUN: Final = "run.json"
LOCK: Final = ".mixq.lock"
OURS: Final = (
    RUN, "plan.json", "sensitivity.json", "sensitivity.csv", "frontier.json", "frontier.csv",
    "pareto.html", "pareto.png", "study.journal",
)  # fmt: skip
"""Files that a run writes; --overwrite deletes these, and measurements-*.jsonl, and no others."""


@contextmanager
def run_folder(
    path: str | Path, identity: Mapping[str, str], *, overwrite: bool = False
) -> Iterator[Path]:
    """The folder of a run, made if need be and locked while the block runs.

    Args:
        path: the folder.
        identity: what the run is of, such as `model` and `hardware` with their fingerprints; a
            folder whose run.json says otherwise holds another run.
        overwrite: delete another run's files instead of refusing.

    Raises:
        OutputError: if the folder cannot be written, is in use, or holds another run.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(
            f"folder {folder} cannot be written: {error.strerror or error}; "
            "choose another with --output"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"folder {folder} is in use by another mixq; wait for it or choose another "
                "with --output"
            ) from error
        _claim(folder, identity, overwrite=overwrite)
        yield folder
    finally:
        os.close(handle)


def _claim(folder: Path, identity: Mapping[str, str], *, overwrite: bool) -> None:
    run = folder / RUN
    if run.exists():
        data = parse_json(read_bounded(run, 1 << 20, OutputError, "run"), OutputError, str(run))
        known = data.get("identity") if isinstance(data, dict) else None
        if known != dict(identity):
            differs = [
                key
                for key, value in identity.items()
                if not isinstance(known, dict) or known.get(key) != value
            ]
            if not overwrite:
                raise OutputError(
                    f"folder {folder} holds the run of another {' and '.join(differs)}; choose "
                    "another with --output, or replace it with --overwrite"
                )
            _clear(folder)
    write_json_atomic(run, {"schema_version": 1, "identity": dict(identity), "state": "running"})


def _clear(folder: Path) -> None:
    try:
        for name in OURS:
            (folder / name).unlink(missing_ok=True)
        for path in folder.glob("measurements-*.jsonl"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be cleared: {error.strerror}") from error
