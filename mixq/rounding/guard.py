"""Guard: rounding that learns from data is used only where the data suffice.

GPTQ fits as many numbers as a layer has inputs; from too few samples it learns their noise, and
the layer errs more on other data than with searched scales. So each unit is rounded on one part of
the samples and judged on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.moments.moments import Moments
from mixq.progress import Progress, silent, track
from mixq.quantize.methods import learns
from mixq.rounding.rounder import Rounder

STAGE = "checking rounding"


def guarded_formats(
    rounder: Rounder,
    formats: Mapping[str, Sequence[Format]],
    unseen: Mapping[str, Moments],
    progress: Progress = silent,
    *,
    ties: Sequence[Sequence[str]] = (),
) -> dict[str, tuple[Format, ...]]:
    """`formats`, with `clip` for what learns from inputs where these are too few or unknown.

    A unit passes if, rounded in the narrowest of its formats, its layer error on `unseen` inputs
    is not above that of `clip`. The units of a tie pass together or not at all.

    Args:
        rounder: has learnt from some samples.
        formats: by unit name.
        unseen: moments of other samples' inputs.
        progress: is told how far it is.
        ties: groups of units that take one format together, none in two of them.
    """
    asked = [unit for unit, choices in formats.items() if any(map(learns, choices))]
    if not asked:
        return {unit: tuple(choices) for unit, choices in formats.items()}
    failed = {
        unit
        for unit in track(asked, STAGE, len(asked), progress)
        if not _passes(rounder, unit, formats[unit], unseen.get(unit))
    }
    failed |= {unit for tie in ties if failed.intersection(tie) for unit in tie}
    return {
        unit: tuple(
            dict.fromkeys(
                replace(fmt, method="clip") if unit in failed and learns(fmt) else fmt
                for fmt in choices
            )
        )
        for unit, choices in formats.items()
    }


def _passes(
    rounder: Rounder, unit: str, formats: Sequence[Format], unseen: Moments | None
) -> bool:
    fitted = rounder.moments.get(unit)
    if fitted is None or unseen is None or fitted.second is None or fitted.count == 0:
        return False
    narrowest = min(filter(learns, formats), key=lambda fmt: fmt.bits)
    plain = replace(narrowest, activation="none", bias_corrected=False)
    try:
        learned, searched = (
            rounder.layer_error(unit, replace(plain, method=method), unseen)
            for method in (plain.method, "clip")
        )
    except FormatError:
        return False  # said with its reason where the unit is measured
    return learned <= searched
