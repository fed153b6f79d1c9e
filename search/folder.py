"""RunFolder: where a run keeps what it measured, and which run it is."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mixq.errors import OutputError
from mixq.files import one_line, parse_json, read_bounded, write_json_atomic
from mixq.workshop import sweep

RUN: Final = "run.json"
LOCK: Final = ".mixq.lock"
RESULTS: Final = (
    "plan.json", "plan.weights.safetensors", "sensitivity.json", "sensitivity.csv",
    "sensitivity.html", "sensitivity.png", "frontier.json", "frontier.csv", "pareto.html",
    "pareto.png", "audit.json", "audit.html", "audit.png", "costs.json", "histogram.json",
    "report.html", "study.journal",
)  # fmt: skip
"""Files that a run leaves beside run.json, stores of measurements and folders of rounded weights;
--overwrite deletes all of these and no others."""
STORES: Final = ("measurements", "audit")
"""What names of stores begin with, see `mixq.sensitivity.store`."""
ROUNDED: Final = re.compile(r"rounded-[0-9a-f]{16}")
"""Names of folders of rounded weights, see `mixq.rounding.store`."""
ROUNDED_UNIT: Final = re.compile(r"[0-9a-f]{32}\.safetensors|\.[0-9a-f]{32}\.[a-z0-9_]{8}")
"""Names of the files in one, and of what a kill of an earlier version left half-written."""
FINISHED: Final = ("done", "analyzed")
LARGEST_RUN: Final = 1 << 20


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process has locked, and what the run in it is of.

    Attributes:
        identity: `model` and, once a search has been there, `hardware`, with their fingerprints.
        request: options of the search, for one that goes on from it; None if they are not known.
    """

    path: Path
    identity: Mapping[str, str]
    request: Mapping[str, object] | None = None

    @property
    def state(self) -> str | None:
        """The state in run.json; None if there is none that can be read."""
        state = (_read(self.path) or {}).get("state")
        return state if isinstance(state, str) else None

    def write(self, state: str, facts: Mapping[str, object] | None = None) -> Path:
        """Write run.json: which run the folder holds, how far it is, and what it was asked.

        Raises:
            OutputError: if it cannot be written.
        """
        run = self.path / RUN
        known = {"schema_version": 1, "identity": dict(self.identity), "state": state}
        asked = {} if self.request is None else {"request": dict(self.request)}
        write_json_atomic(run, known | asked | dict(facts or {}))
        return run


def request_of(path: str | Path) -> dict[str, object]:
    """The options of the search in a folder.

    Raises:
        OutputError: if there is none, or nothing says what it was asked.
    """
    run = _read(Path(path))
    if run is None:
        raise OutputError(
            f"folder {one_line(path)} holds no run to go on from, as it has no readable {RUN}; "
            "leave out --resume, or name the run's folder with --output"
        )
    request = run.get("request")
    if not isinstance(request, dict):
        raise OutputError(
            f"{RUN} in {one_line(path)} does not say what the search was asked (an analysis, the "
            "library or an earlier mixq wrote it); give the options anew, without --resume"
        )
    return request


@contextmanager
def run_folder(
    path: str | Path,
    identity: Mapping[str, str],
    *,
    overwrite: bool = False,
    request: Mapping[str, object] | None = None,
) -> Iterator[RunFolder]:
    """The folder of a run, made if need be and locked while the block runs.

    A folder that holds a finished run keeps its run.json until `RunFolder.write` replaces it, so
    that a request that is refused changes nothing.

    Args:
        path: the folder.
        identity: what the run is of, such as `model` and `hardware` with their fingerprints; a
            folder whose run.json says otherwise holds another run.
        overwrite: delete another run's files instead of refusing.
        request: options of the search, kept in run.json from the start, so that a search that is
            interrupted can be taken up; a finished run's stay until `RunFolder.write`.

    Raises:
        OutputError: if the folder cannot be written, is in use, or holds another run.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise OutputError(
            f"folder {one_line(folder)} cannot be written: {error.strerror or error}; "
            "choose another with --output"
        ) from error
    try:
        _lock(handle, folder)
        for place in (folder, *_rounded(folder)):
            sweep(place)
        yield _claimed(folder, identity, request, overwrite=overwrite)
    except KeyboardInterrupt as stop:  # shown below the traceback; the command line has its own
        stop.add_note(
            f"what was measured is kept in {one_line(folder)}: the same call with "
            f"folder={one_line(repr(str(folder)))} goes on from there"
        )
        raise
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"folder {one_line(folder)} is in use by another mixq; wait for it or choose another "
            "with --output"
        ) from error
    except OSError as error:  # some network file systems know no locks
        raise OutputError(
            f"folder {one_line(folder)} cannot be locked: {error.strerror or error}; choose one "
            "on a local disk with --output"
        ) from error


def _claimed(
    folder: Path,
    identity: Mapping[str, str],
    request: Mapping[str, object] | None,
    *,
    overwrite: bool,
) -> RunFolder:
    """The folder as this run's; refused if it is another's."""
    run = _read(folder) or {}
    known = run.get("identity")
    known = known if isinstance(known, dict) else {}
    differs = [key for key, value in identity.items() if known.get(key, value) != value]
    held = _held(folder)
    if held and (differs or not known):
        if not overwrite:
            what = (
                f"the run of another {' and '.join(differs)}"
                if differs
                else f"{held[0].name}, but no readable {RUN} that says what it is of"
            )
            raise OutputError(
                f"folder {one_line(folder)} holds {what}; choose another with --output, or "
                "replace it with --overwrite"
            )
        _clear(folder, held)
    # A run that was refused before it measured anything left nothing worth protecting.
    whole = dict(identity) if differs else {**known, **identity}
    claimed = RunFolder(folder, whole, request)
    asks_else = request is not None and run.get("request") != dict(request)
    if claimed.identity != known or (asks_else and run.get("state") not in FINISHED):
        claimed.write("running")
    return claimed


def _read(folder: Path) -> dict[str, object] | None:
    """The object in run.json; None if there is none or it is damaged."""
    run = folder / RUN
    try:
        data = parse_json(
            read_bounded(run, LARGEST_RUN, OutputError, "run"), OutputError, str(run)
        )
    except OutputError:
        return None
    return data if isinstance(data, dict) else None


def _held(folder: Path) -> list[Path]:
    """What a run has left in the folder, run.json aside."""
    named = [folder / name for name in RESULTS]
    kept = [path for path in named if path.exists() or path.is_symlink()]
    stores = [path for kind in STORES for path in sorted(folder.glob(f"{kind}-*.jsonl"))]
    return [*kept, *stores, *_rounded(folder)]


def _rounded(folder: Path) -> list[Path]:
    """Folders of rounded weights; a link to one is somebody else's."""
    return [
        path
        for path in sorted(folder.glob("rounded-*"))
        if ROUNDED.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _clear(folder: Path, held: list[Path]) -> None:
    try:
        rounded = _rounded(folder)
        for path in rounded:
            for file in path.iterdir():
                if ROUNDED_UNIT.fullmatch(file.name):
                    file.unlink()
            if not any(path.iterdir()):  # files of somebody else stay
                path.rmdir()
        for path in held:
            if path not in rounded:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"folder {one_line(folder)} cannot be cleared: {error.strerror or error}; choose "
            "another with --output"
        ) from error
