"""What a shape would have been predicted to take, had nobody measured that shape on that chip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mixq.errors import MixqError
from mixq.predict.match import base_name
from mixq.predict.prediction import Prediction
from mixq.predict.products import predict_product
from mixq.predict.row import Row
from mixq.progress import Progress, track
from published.fits import Fits
from published.groups import Group, Key, profile_with
from published.roofline import roofline


@dataclass(frozen=True)
class LeftOut:
    """One row predicted without the rows of its shape.

    Attributes:
        seen: whether other shapes of its kernel were left to fit.
        prediction: None if nothing of its chip was left.
        roofline: the same value from peak rates alone.
    """

    group: Group
    row: Row
    seen: bool
    prediction: Prediction | None
    roofline: Prediction


def leave_shapes_out(groups: Sequence[Group], progress: Progress) -> list[LeftOut]:
    """Every row of every group, predicted with its (N, K) unseen on its chip, in any width.

    Everything that could have seen it is fitted again: its kernel, the kernels of its chip and
    what other chips' kernels lean on.
    """
    shapes = dict.fromkeys((g.profile.name, row.n, row.k) for g in groups for row in g.rows)
    return _without(
        groups,
        [
            (shape[0], lambda g, row, s=shape: (g.profile.name, row.n, row.k) == s)
            for shape in shapes
        ],
        "shapes left out",
        progress,
    )


def leave_kernels_out(groups: Sequence[Group], progress: Progress) -> list[LeftOut]:
    """Every row of every group, predicted with none of its kernel's rows seen on its chip.

    Kernels that one name stands for are left out together.
    """
    kernels = dict.fromkeys(_kernel_of(group) for group in groups)
    return _without(
        groups,
        [(kernel[0], lambda group, _, k=kernel: _kernel_of(group) == k) for kernel in kernels],
        "kernels left out",
        progress,
    )


def _kernel_of(group: Group) -> Key:
    name, runtime, _, bits, activation_bits = group.key
    return name, runtime, base_name(group.start), bits, activation_bits


def _without(
    groups: Sequence[Group],
    parts: Sequence[tuple[str, Callable[[Group, Row], bool]]],
    stage: str,
    progress: Progress,
) -> list[LeftOut]:
    """The rows of each part, which lies on one profile, predicted from the rest."""
    fits = Fits(groups)
    found = []
    for name, gone in track(parts, stage, len(parts), progress):
        kept = fits.fit(lambda group, row, gone=gone: not gone(group, row), name)
        kernels = {key: fitted.kernel for key, fitted in kept.items()}
        for group in groups:
            if group.profile.name != name:
                continue
            profile = profile_with(group.profile, groups, kernels)
            for row in group.rows:
                if gone(group, row):
                    try:
                        prediction = predict_product(profile, row)
                    except MixqError:
                        prediction = None
                    base = Prediction(roofline(group, row), 0.0, 0.0, "roofline")
                    found.append(LeftOut(group, row, group.key in kernels, prediction, base))
    return found
