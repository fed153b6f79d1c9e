"""Notes: what a plan says about itself beside its numbers."""

from __future__ import annotations

from mixq.activations.saturation import may_saturate
from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.search.analysis import Layout
from mixq.search.palette import Palette
from mixq.search.trials import Trial


def latency_notes(layout: Layout, chosen: Trial) -> list[str]:
    """What to say where the plan is smaller but not faster."""
    costs, assignment = layout.costs, chosen.proposal.assignment
    latency_s, baseline_s = chosen.totals.latency_s, costs.baseline_latency_s
    if latency_s < baseline_s:
        return []
    slower = sum(
        costs.cost(unit, fmt).latency_s > costs.cost(unit, Format(32)).latency_s
        for unit, fmt in assignment.items()
    )
    return [
        f"no speed-up is predicted: {latency_s * 1e3:.3g} ms against {baseline_s * 1e3:.3g} ms in "
        f"32 bits; {slower} of {len(assignment)} layers are slower than in 32 bits, see kernel"
    ]


def saturation_notes(chosen: Trial) -> list[str]:
    """What to say where some CPUs would compute something else."""
    unsafe = [fmt for fmt in chosen.proposal.assignment.values() if may_saturate(fmt)]
    if not unsafe:
        return []
    return [
        f"{len(unsafe)} layers multiply 8-bit inputs by signed 8-bit weights: x86 CPUs without "
        "VNNI saturate there and compute something else; for those, use a profile whose kernels "
        "read the reduced grid"
    ]


def activation_notes(layout: Layout, palette: Palette) -> list[str]:
    """What to say of rounded activations that were asked for and fit no layer."""
    offered = {fmt.activation for choices in layout.formats.values() for fmt in choices}
    return [
        f"no layer takes {activation} activations: the runtime of {layout.costs.hardware} has no "
        "kernel that reads them with these layers and widths"
        for activation in palette.activations
        if activation != "none" and activation not in offered
    ]


def data_notes(heldout: Calibration | None) -> list[str]:
    """What to say where nothing is held out."""
    if heldout is not None:
        return []
    return ["one calibration sample cannot be split, so nothing is held out to judge the plan by"]
