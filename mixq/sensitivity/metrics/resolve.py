"""From a MetricChoice and a model to its Metric."""

from __future__ import annotations

from typing import Final

from torch import nn

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.graph.evaluating import evaluating
from mixq.plan import Plan
from mixq.sensitivity.metrics.angle import Angle
from mixq.sensitivity.metrics.choice import ALL, AUTO, MetricChoice
from mixq.sensitivity.metrics.divergence import Divergence
from mixq.sensitivity.metrics.loss import LossIncrease, name_of
from mixq.sensitivity.metrics.metric import Distance, Metric
from mixq.sensitivity.metrics.squares import MeanSquare, Relative
from mixq.sensitivity.metrics.weighted import Weighted, chosen
from mixq.sensitivity.outputs import ONLY, floating_outputs, main_output
from mixq.sources.function import find_function

DISTANCES: Final[dict[str, type[Distance]]] = {
    kind.name: kind for kind in (MeanSquare, Relative, Divergence, Angle)
}
CAUSAL: Final = ("ForCausalLM", "LMHeadModel")
"""What the names of Hugging Face's causal language models end with."""
LOGITS: Final = "logits"
SCORE_DIMENSIONS: Final = 3
"""(samples, tokens, classes)."""


def resolve(choice: MetricChoice, model: nn.Module, calibration: Calibration) -> Metric:
    """The metric that a choice means for a model, which is run on one sample.

    `auto` is KL divergence for causal language models (by their class, or `config.architectures`,
    and an output `logits` of shape (samples, tokens, classes) that nothing else is compared
    beside), and mean squared error for all others.

    Raises:
        ModelError: if an output that was asked for is not there, or there is none.
        SourceError: if a loss is named that cannot be imported.
        CalibrationError: if the model does not take the calibration.
    """
    with evaluating(model):
        output = call(model, calibration.take(1).batches[0])
    return resolve_for(choice, model, output)


def resolve_for(choice: MetricChoice, model: nn.Module, output: object) -> Metric:
    """As `resolve`, for a model that has been run already.

    Raises:
        ModelError: if an output that was asked for is not there, or there is none.
        SourceError: if a loss is named that cannot be imported.
    """
    main = main_output(output)  # refuses what holds no numbers, in its words
    weights = choice.weights()
    if choice.outputs == ALL or (weights is None and choice.is_loss):
        names = floating_outputs(output)
        weights = {name: 1 / len(names) for name in names}
    elif weights is None:
        weights = {main.name or ONLY: 1.0}
    picked = chosen(output, weights)
    name = choice.metric
    if not isinstance(name, str):
        return LossIncrease(name, weights, name_of(name))
    if choice.is_loss:
        return LossIncrease(find_function(name), weights, name)
    if name == AUTO:
        scores = picked.get(LOGITS)
        alone = len(picked) == 1 and scores is not None and scores.dim() == SCORE_DIMENSIONS
        name = Divergence.name if alone and is_causal(model) else MeanSquare.name
    return Weighted(DISTANCES[name](), weights)


def of_plan(plan: Plan) -> Metric | None:
    """The metric that a plan's errors are in; None for a loss, which is no plan's to run."""
    kind = DISTANCES.get(plan.error_metric.name)
    return None if kind is None else Weighted(kind(), plan.error_metric.outputs or None)


def is_causal(model: nn.Module) -> bool:
    """Whether a model calls itself a causal language model."""
    named = getattr(getattr(model, "config", None), "architectures", None)
    names = [type(model).__name__, *(named if isinstance(named, list | tuple) else ())]
    return any(str(name).endswith(CAUSAL) for name in names)
