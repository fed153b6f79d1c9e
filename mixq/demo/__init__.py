"""The embedded demo: a small real model with real labelled data inside the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixq.calibration import Calibration
    from mixq.demo.data import Evaluate
    from mixq.demo.model import DigitsNet

__all__ = ["load"]


def load() -> tuple[DigitsNet, Calibration, Evaluate]:
    """The trained model in eval mode, its calibration images and its evaluation.

    Nothing is downloaded or trained, and torch's random numbers are left alone.
    """
    # Imported here, so that importing the package (and `mixq --help`) does not import torch.
    import torch
    from safetensors.torch import load_file

    from mixq.calibration import Calibration
    from mixq.demo.data import Evaluate, load_splits
    from mixq.demo.model import WEIGHTS, DigitsNet

    model = DigitsNet.uninitialized()
    model.load_state_dict(load_file(WEIGHTS), assign=True)
    splits = load_splits()
    calibration = Calibration.of(list(torch.split(splits.calibration.images, 25)))
    return model.eval(), calibration, Evaluate(splits.test)
