"""What must hold of a folder after a fault: every file whole, nothing measured lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import onnx
import optuna
from google.protobuf.message import DecodeError
from optuna.trial import TrialState

from mixq import plan_weights
from mixq.errors import MixqError, PlanError
from mixq.plan import Plan
from mixq.profiles import load as load_profile
from mixq.report.records import Records
from mixq.search.audit import Audit
from mixq.search.study.storage import JOURNAL, open_storage, quiet
from mixq.sensitivity.table import SensitivityTable
from mixq.tensor_file import read_tensors
from mixq.workshop import NAME

ENDS = {".png": b"IEND\xaeB`\x82", ".html": b"</html>"}


GROWING = (".jsonl", ".journal")
"""Suffixes of files that are appended to, line by line."""


def damaged(folder: Path, *versions: Mapping[str, bytes]) -> list[str]:
    """What is wrong with the files in a folder that stand under their final names.

    Args:
        versions: of its contents before and after; each file has to be one or the other.
    """
    found = [problem for path in sorted(visible(folder)) if (problem := _problem(path))]
    for name, data in contents(folder).items():
        known = {version[name] for version in versions if name in version}
        changes = name.endswith((*GROWING, "run.json", ".earlier")) or any(
            NAME.fullmatch(part) for part in Path(name).parts
        )
        if versions and not changes and data not in known:
            found.append(f"{name}: neither what it was nor what it becomes")
    return found


def visible(folder: Path) -> Iterator[Path]:
    """Files outside the workshops that a kill may leave."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(NAME.fullmatch(part) for part in inside):
            yield path


def _problem(path: Path) -> str | None:
    try:
        _read(path)
    except (MixqError, ValueError, AssertionError, DecodeError) as error:
        return f"{path.name}: {error}"
    return None


def _read(path: Path) -> None:
    """Read a file as mixq or its runtime does."""
    if path.name == "plan.json":
        plan = Plan.load(path)
        if plan.weights is not None:
            checksum = plan_weights._open(plan)[2]
            assert checksum == plan.weights.sha256, "its weights are another plan's"
    elif path.name == "frontier.json":
        Records.load(path)
    elif path.name == "sensitivity.json":
        SensitivityTable.load(path)
    elif path.name == "audit.json":
        Audit.load(path)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        read_tensors(path, PlanError, path.name)
    elif path.suffix == ".toml":
        load_profile(str(path))
    elif path.suffix == ".onnx":
        onnx.load(path)
    elif path.suffix in ENDS:
        assert path.read_bytes().rstrip().endswith(ENDS[path.suffix]), "is cut off"
    elif path.suffix == ".csv":
        assert path.read_bytes().endswith(b"\n"), "is cut off"


def rubbish(folder: Path) -> list[str]:
    """Names that no finished command leaves behind."""
    kept = {".mixq.lock"}
    found = [path for path in folder.rglob("*") if path.name.startswith(".")]
    locks = list(folder.rglob(f"{JOURNAL}.lock*"))
    return sorted(str(p.relative_to(folder)) for p in {*found, *locks} if p.name not in kept)


def measurements(folder: Path) -> list[tuple[str, str]]:
    """Name of the store and whole line, of every measurement in a run's folder."""
    return [
        (path.name, line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]


def trials(folder: Path) -> dict[tuple[str, int], tuple[str, tuple[float, ...]]]:
    """Plan and values of every complete trial in a folder's journal, by study and number."""
    if not (folder / JOURNAL).exists():
        return {}
    with tempfile.TemporaryDirectory() as copy:
        shutil.copyfile(folder / JOURNAL, Path(copy, JOURNAL))
        return trials_in(open_storage(Path(copy), None))


def trials_in(
    storage: optuna.storages.BaseStorage,
) -> dict[tuple[str, int], tuple[str, tuple[float, ...]]]:
    """The same of any storage."""
    found = {}
    with quiet():
        for name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=name, storage=storage)
            for trial in study.get_trials(states=(TrialState.COMPLETE,)):
                with suppress(KeyError):
                    key = json.dumps(trial.params, sort_keys=True)
                    found[name, trial.number] = (key, tuple(trial.values))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a folder by their path in it, without the journal, which notes when."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (JOURNAL, ".mixq.lock")
    }
