"""Exporting: plans become files in a folder that is gone afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import nn

from mixq.bench.candidate import Candidate, Predicted
from mixq.calibration import Calibration
from mixq.errors import MissingExtraError, MixqError
from mixq.export.export import export
from mixq.export.registry import runtime as runtime_named
from mixq.files import one_line
from mixq.plan import Plan
from mixq.progress import Progress, silent, track

STAGE: Final = "exporting"


def export_all(
    model: nn.Module,
    plans: Mapping[str, Plan],
    runtime: str,
    folder: Path,
    calibration: Calibration,
    *,
    tokenizer: Path | None = None,
    predicted: Mapping[str, Predicted] | None = None,
    progress: Progress = silent,
) -> list[Candidate]:
    """A candidate for each plan, verified; where that fails the candidate says why.

    Args:
        model: the original.
        plans: by the candidate's name.
        runtime: that all are exported for.
        folder: where the files are put.
        calibration: for shapes and for the check.
        tokenizer: a Hugging Face folder, for runtimes that need one.
        predicted: of the candidates for which there is a prediction.
        progress: is told how far it is.

    Raises:
        MissingExtraError: if the runtime is not installed.
    """
    suffix = runtime_named(runtime).suffix
    known = predicted or {}
    made = []
    for index, name in track(list(enumerate(plans)), STAGE, len(plans), progress):
        place = folder / str(index)
        place.mkdir()
        path, plan = place / f"model{suffix}", plans[name]
        try:
            done = export(
                model,
                plan,
                path,
                runtime=runtime,
                calibration=calibration,
                tokenizer=tokenizer,
            )
        except MissingExtraError:
            raise
        except MixqError as error:
            made.append(Candidate(name, runtime, None, fault=one_line(error), notes=_notes(plan)))
            continue
        notes = (*_notes(plan), *done.notes)
        made.append(
            Candidate(
                name, runtime, path, done.file_bytes, known.get(name), notes=notes,
                blocks=done.blocks,
            )
        )  # fmt: skip
    return made


def _notes(plan: Plan) -> tuple[str, ...]:
    """What a uniform plan says of itself; a search's notes are of its search."""
    return tuple(plan.notes) if plan.certificate.solver == "uniform" else ()
