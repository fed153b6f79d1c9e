"""What a shape would have been predicted to take, had nobody measured that shape on that chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixq.errors import MixqError
from mixq.predict.prediction import Prediction
from mixq.predict.products import predict_product
from mixq.predict.row import Row
from mixq.progress import Progress, track
from published.fits import Fits
from published.groups import Group, profile_with
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
    fits = Fits(groups)
    shapes = dict.fromkeys((g.profile.name, row.n, row.k) for g in groups for row in g.rows)
    found = []
    for name, n, k in track(shapes, "shapes left out", len(shapes), progress):

        def gone(group: Group, row: Row, shape: object = (name, n, k)) -> bool:
            return (group.profile.name, row.n, row.k) == shape

        kept = fits.fit(lambda group, row, gone=gone: not gone(group, row), name)
        kernels = {key: fitted.kernel for key, fitted in kept.items()}
        for group in groups:
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
