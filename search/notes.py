"""Notes: what a plan says about itself beside its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mixq.activations.saturation import may_saturate
from mixq.calibration import Calibration
from mixq.cost.memory import cache_bytes
from mixq.search.analysis import Layout
from mixq.search.choose import keeps
from mixq.search.limits import Limits
from mixq.search.palette import Palette
from mixq.search.stability import Stability
from mixq.search.trials import PLAIN, Trial, difference_of, within_noise

REGRET: Final = 0.02
"""Share of added error that another draw of samples may cost before it is worth a warning."""
CACHED_TOKENS: Final = 1024
"""Of the example that a note on the cache gives."""
DOUBT: Final = 0.05
"""Share of its error by which a plan may differ from the next best one without being told."""


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


def stability_notes(stability: Stability | None, available: int) -> list[str]:
    """What to say where another draw of the calibration samples would give another plan.

    What a wrong choice costs is of second order in the errors of what it is made from, so that
    it falls as 1/samples: choices that are wrong by an error of 1/sqrt(samples) are wrong about
    what differs by no more than that.

    Args:
        stability: of the chosen plan.
        available: samples that sensitivities could be measured on.
    """
    if stability is None:
        return []
    unused = available > stability.samples
    if not stability.resamplings:
        way = "--sensitivity measured takes all" if unused else "give more"
        count = stability.samples
        few = "one calibration sample" if count == 1 else f"{count} calibration samples"
        return [
            f"sensitivities come from {few}, so nothing can be said of how stable "
            f"the plan is; {way}"
        ]
    if stability.regret <= REGRET:
        return []
    needed = _round_up(stability.samples * stability.regret / REGRET)
    way = (
        f"--sensitivity measured takes all {available}"
        if unused
        else f"that is {needed / stability.samples:.2g} times as much calibration data"
    )
    count = stability.samples
    return [
        f"sensitivities from {count} calibration samples are few for this plan: one from another "
        f"{count} would add {stability.regret:.1%} more error on average; "
        f"about {needed} would bring that to {REGRET:.0%}, {way}"
    ]


def doubt_notes(chosen: Trial, trials: Sequence[Trial], limits: Limits) -> list[str]:
    """What to say where the samples do not tell the chosen plan from the next best measured one.

    Nothing, if they differ by little in any case. Plain plans have a note of their own.
    """
    others = [
        trial
        for trial in trials
        if trial.proposal.kind not in PLAIN
        and keeps(trial, limits)
        and trial.proposal.assignment != chosen.proposal.assignment
    ]
    error = chosen.judged_error
    if limits.objective != "error" or not others or error == 0:
        return []
    rival = min(others, key=lambda trial: trial.judged_error)
    difference = difference_of(chosen, rival)
    twice_se = 2 * difference.error_se
    if not within_noise(chosen, rival) or twice_se <= DOUBT * error:
        return []
    told = max(abs(difference.error), DOUBT * error)
    needed = _round_up(difference.samples * (twice_se / told) ** 2)
    change = f"{-difference.error / error:+.1%} ± {twice_se / error:.1%}"
    return [
        f"{difference.samples} samples do not tell this plan from the next best measured one, "
        f"{rival.proposal.name}: its error differs by {change}; about {needed} would tell them "
        f"apart, or that they differ by less than {DOUBT:.0%}"
    ]


def _round_up(count: float) -> int:
    """A number of samples with two digits."""
    step: int = 10 ** max(math.floor(math.log10(count)) - 1, 0)
    return math.ceil(count / step) * step


def cache_notes(model: object) -> list[str]:
    """What the keys and values of past tokens add to peak memory, for causal language models.

    The traced workload keeps none, so predictions leave them out. Sizes come from the fields that
    Hugging Face configurations share.
    """
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    hidden = getattr(config, "hidden_size", None)
    if not (type(model).__name__.endswith("ForCausalLM") and heads and layers and hidden):
        return []
    kept = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or hidden // heads
    one = cache_bytes(layers=layers, heads=kept, head_size=size, tokens=1)
    return [
        f"peak memory is that of one pass without a cache; generating text keeps {one:,} bytes "
        f"for each token and sequence in 32-bit floats ({layers} layers x {kept} heads x {size} "
        f"x 2), {one * CACHED_TOKENS / 1e6:,.0f} MB for {CACHED_TOKENS:,} tokens, half in 16-bit"
    ]
