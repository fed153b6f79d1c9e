"""Equalization: how a model was rewritten so that its weights quantize better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from mixq.equalize import stored
from mixq.equalize.folding import Fold, affine_map, is_batch_norm
from mixq.equalize.scaling import Part, Scaling
from mixq.errors import ModelError
from mixq.graph.copying import copied


@dataclass(frozen=True, eq=False)
class Equalization:
    """Folds and scalings, in the order in which they are applied.

    Attributes:
        folds: batch norms that their neighbours take over.
        scalings: factors that move between the weights on both sides of a channel.
        skipped: what was left alone, and why, a line each.
    """

    folds: tuple[Fold, ...] = ()
    scalings: tuple[Scaling, ...] = ()
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        layers = sum(scaling.purpose == "cross-layer" for scaling in self.scalings)
        return (
            f"{len(self.folds)} batch norms folded, {layers} cross-layer and "
            f"{len(self.scalings) - layers} input scalings, {len(self.skipped)} left alone"
        )

    def apply(self, model: nn.Module) -> nn.Module:
        """A copy of `model`, rewritten; in eval mode it computes what `model` does.

        The numbers come from the model's own batch norms and weights, element by element, so that
        the same model gives the same bits in any process.

        Raises:
            ModelError: if the model lacks a batch norm or parameter, or has it in another shape.
        """
        equalized = copied(model)
        for fold in self.folds:
            _check_fold(equalized, fold)
            fold.fold(equalized)
        for scaling in self.scalings:
            scaling.scale({part.name: _parameter(equalized, part) for part in scaling.parts})
        return equalized

    def header(self) -> dict[str, Any]:
        """What `tensors` belong to, fit for JSON."""
        return stored.header(self.folds, self.scalings, self.skipped)

    def tensors(self) -> dict[str, Tensor]:
        """Factors (float32) and indices (int32) by name, fit for a safetensors file."""
        return stored.tensors(self.folds, self.scalings)

    @classmethod
    def from_tensors(cls, header: object, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `header()` and `tensors()`.

        Raises:
            ArtifactError: if they do not fit together, or are out of range.
        """
        return cls(*stored.read(header, tensors))


def _check_fold(model: nn.Module, fold: Fold) -> None:
    weight = _parameter(model, fold.weight)
    norm = _module(model, fold.norm)
    if not is_batch_norm(norm):
        found = "nothing" if norm is None else f"a {type(norm).__name__}"
        raise ModelError(
            f"the equalization folds batch norm {fold.norm!r:.100}, but the model has {found} "
            "there; apply it to the original model that it was found for"
        )
    channels = len(affine_map(norm)[0])
    path, _, leaf = fold.bias.rpartition(".")
    places = getattr(_module(model, path), "_parameters", {})
    bias = places.get(leaf)
    wanted = (channels if fold.side == "before" else len(weight),)
    is_in_range = int(fold.weight.index.max()) <= channels
    if leaf not in places or not is_in_range or (bias is not None and bias.shape != wanted):
        raise ModelError(
            f"the equalization folds batch norm {fold.norm!r:.100} of {channels} channels into "
            f"{fold.weight.name!r:.100} and {fold.bias!r:.100}, which do not fit; apply it to the "
            "original model that it was found for"
        )


def _parameter(model: nn.Module, part: Part) -> nn.Parameter:
    path, _, leaf = part.name.rpartition(".")
    owner = _module(model, path)
    parameter: nn.Parameter | None = None if owner is None else owner._parameters.get(leaf)
    found = "missing" if parameter is None else f"of shape {tuple(parameter.shape)}"
    index = tuple(part.index.shape)
    if (
        parameter is None
        or len(index) != parameter.dim()
        or any(own not in (1, size) for own, size in zip(index, parameter.shape, strict=True))
    ):
        raise ModelError(
            f"the equalization scales parameter {part.name!r:.100} along {index!r:.60}, but in "
            f"the model it is {found}; apply it to the original model that it was found for"
        )
    return parameter


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
