"""Loads what --model and --calibration name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mixq.errors import PlanError, UsageError
from mixq.files import one_line

if TYPE_CHECKING:
    from mixq.calibration import Calibration
    from mixq.plan import Plan
    from mixq.sources import LoadedModel
    from mixq.streaming import StreamedModel


def load_inputs(
    model: str | None, calibration: str | None, *, trust_remote_code: bool = False
) -> tuple[LoadedModel, Calibration]:
    """The model and the calibration data that it is measured on.

    Args:
        model: as `--model`.
        calibration: as `--calibration`.
        trust_remote_code: run the Python code that a Hugging Face folder brings along.

    Raises:
        SourceError: if a spec cannot be loaded.
        CalibrationError: if there are no calibration data.
    """
    from mixq.sources import load_calibration, load_model

    loaded = load_model(model, trust_remote_code=trust_remote_code)
    return loaded, load_calibration(calibration, loaded)


def check_demo(plan: Plan, model: str | None, loaded: LoadedModel) -> None:
    """Refuse a plan of another model where `--model` was left out, which means the demo.

    Args:
        plan: that is to be used.
        model: as `--model`.
        loaded: what that stands for.

    Raises:
        PlanError: naming the model that the plan is for.
    """
    if model is not None or plan.model.name == loaded.name:  # another demo's: its weights differ
        return
    from mixq.graph.state import fingerprint

    if fingerprint(loaded.model) == plan.model.fingerprint:
        return
    name = one_line(plan.model.name, 100)
    spec = name if ":" in name or Path(name).exists() else "SPEC"
    raise PlanError(
        f"the plan is for {name!r}, but without --model the demo is used; add --model {spec}"
    )


def load_streamed(model: str | None, calibration: str | None) -> tuple[StreamedModel, Calibration]:
    """The model of a Hugging Face folder, whose weights stay where they are, and its data.

    Raises:
        UsageError: if the model is no folder.
        SourceError: if it cannot be loaded.
        CalibrationError: if there are no calibration data.
    """
    if model is None or not Path(model).is_dir():
        raise UsageError(
            f"--stream reads the weights of a Hugging Face folder part by part, but --model is "
            f"{model or 'the demo'!r}; pass such a folder, or leave out --stream"
        )
    from mixq.sources import LoadedModel, load_calibration
    from mixq.streaming import open_folder

    folder = Path(model)
    streamed = open_folder(folder)
    loaded = LoadedModel(name=streamed.name, model=streamed.model, folder=folder)
    return streamed, load_calibration(calibration, loaded)
