"""Export: a plan and a model become a file that its runtime has loaded and agreed with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mixq.calibration import Calibration
from mixq.errors import ExportError, MixqError, OutputError
from mixq.export.registry import runtime as runtime_named
from mixq.export.runtime import Runtime
from mixq.export.source import Source
from mixq.export.verify import check_bytes, verified
from mixq.files import one_line
from mixq.plan import Plan
from mixq.progress import Progress, silent
from mixq.workshop import sweep, workshop


@dataclass(frozen=True)
class Export:
    """A file or folder that was written and verified.

    Attributes:
        runtime: that it is for.
        path: of the file or folder.
        file_bytes: of everything that was written, graph, tokenizer and all.
        tensor_bytes, predicted_bytes: of the tensors in it, as they are and as was predicted.
        difference: of the runtime's outputs from the applied plan's, relative root mean square.
        tolerance: that it had to keep.
        notes: what to know of it, a sentence each.
        blocks: kernels that were chosen, see `mixq.export.runtime.Written`.
    """

    runtime: str
    path: str
    file_bytes: int
    tensor_bytes: int
    predicted_bytes: int
    difference: float
    tolerance: float
    notes: tuple[str, ...]
    blocks: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The values as JSON."""
        return {**asdict(self), "notes": list(self.notes)}


def export(
    model: nn.Module,
    plan: Plan,
    path: str | Path,
    *,
    runtime: str = "onnxruntime",
    calibration: object,
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Export:
    """Write a quantized model for a runtime, load it there and compare it with the plan.

    Args:
        model: the original, as it was searched for.
        plan: made for it.
        path: of the file or folder.
        runtime: a name of `mixq.export.registry.PLUGINS`.
        calibration: inputs, as `mixq.search` takes them.
        tokenizer: a Hugging Face folder with tokenizer and configuration, for runtimes that need
            them; by default the one that the model came from.
        overwrite: whether a folder that is there may be replaced. A file is always replaced.
        progress: is told of the steps.
        options: of the runtime, such as `activations="float"` for onnxruntime.

    Returns:
        What was written, and how well it agrees.

    Raises:
        ExportError: if the runtime cannot take the plan or does not compute what it should; then
            no file is left.
        MissingExtraError: if the runtime is not installed.
        PlanError: if the plan is for another model.
        OutputError: if the place cannot be written.
    """
    target, kind = Path(path), runtime_named(runtime, **options)
    try:
        _check_target(target, kind, overwrite=overwrite)
    except OSError as error:
        if isinstance(error, MixqError):
            raise
        raise _unwritable(target, error, "choose another place") from error
    folder = None if tokenizer is None else Path(tokenizer)
    stage = f"exporting to {runtime}"
    progress(stage, 0, 3)
    source = Source.of(model, plan, Calibration.of(calibration), folder)
    kind.check(source)
    progress(stage, 1, 3)
    with _beside(target) as workshop:
        made = workshop / target.name
        written = kind.write(source, made)
        check_bytes(written)
        progress(stage, 2, 3)
        session = kind.open(made)
        try:
            difference, allowed = verified(source, session, written, runtime)
        finally:
            session.close()
        progress(stage, 3, 3)
        files = [item for item in workshop.rglob("*") if item.is_file()]
        size = sum(item.stat().st_size for item in files)
        for item in files:  # so that a crash of the machine leaves no name without its bytes
            with item.open("rb+") as written_file:
                os.fsync(written_file.fileno())
        _move(workshop, target)
    return Export(
        runtime, str(target), size, written.tensor_bytes, written.predicted_bytes, difference,
        allowed, written.notes, written.blocks,
    )  # fmt: skip


def _check_target(target: Path, runtime: Runtime, *, overwrite: bool) -> None:
    if "\0" in str(target):
        raise OutputError(
            f"{one_line(target)} cannot be written: a name has no NUL; choose another"
        )
    if not target.name or not target.absolute().parent.is_dir():
        raise OutputError(
            f"{one_line(target)} cannot be written: there is no folder "
            f"{one_line(target.absolute().parent)}; make it, or choose another place"
        )
    if runtime.is_folder and target.exists() and not target.is_dir():
        raise OutputError(
            f"{one_line(target)} is a file, but runtime {runtime.name} writes a folder; name "
            "another place"
        )
    if runtime.is_folder and target.exists() and not overwrite:
        raise OutputError(
            f"{one_line(target)} exists, and runtime {runtime.name} writes a folder; choose "
            "another place, or pass --overwrite"
        )
    if not runtime.is_folder and target.is_dir():
        raise OutputError(
            f"{one_line(target)} is a folder, but runtime {runtime.name} writes a file; name one"
        )


def _unwritable(target: Path, error: OSError, end: str) -> OutputError:
    reason = one_line(error.strerror or error)
    return OutputError(f"{one_line(target)} cannot be written: {reason}; {end}")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder beside `target` that is gone afterwards, whatever happens."""
    sweep(target.absolute().parent)
    try:
        with workshop(target) as folder:
            yield folder
    except OSError as error:
        if isinstance(error, MixqError):
            raise
        raise _unwritable(target, error, "nothing was changed") from error


def _move(workshop: Path, target: Path) -> None:
    """Everything in `workshop` to where `target` is, what `target` refers to first."""
    if not (workshop / target.name).exists():
        raise ExportError(f"nothing was written to {one_line(target)}; this is a bug in mixq")
    others = [item for item in workshop.iterdir() if item.name != target.name]
    for item in [*others, workshop / target.name]:
        place, old = target.with_name(item.name), workshop / ".old"
        if not item.is_dir():
            item.replace(place)
            continue
        if place.is_dir():
            place.rename(old)
        try:
            item.rename(place)
        except OSError:
            if old.is_dir():
                old.rename(place)
            raise
