"""Methods: ways to choose integer codes for weights, by the name that formats have for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from mixq.errors import FormatError, PluginError
from mixq.formats import METHODS, Format
from mixq.quantize.clip import clip_steps
from mixq.quantize.codes import (
    Codes,
    as_codes,
    code_range,
    is_weight,
    nearest,
    positions,
    to_groups,
)
from mixq.quantize.flips import flip_to_cancel
from mixq.quantize.gptq import Factor, gptq, prepare
from mixq.quantize.hqq import hqq_steps
from mixq.quantize.ranges import range_steps

Needs: TypeAlias = Literal["nothing", "diagonal", "second"]
_NEEDS: Final = ("nothing", "diagonal", "second")


@dataclass(eq=False)
class Inputs:
    """What is known of the inputs that a matrix of shape (rows, columns) meets.

    Attributes:
        second: E[x x^T], shape (blocks, columns, columns); row r uses block r x blocks // rows.
        diagonal: its diagonals, shape (blocks, columns) or (columns,); may be known without it.
        known: `prepare(second)`, which takes longer than the rest of GPTQ, if it is at hand.
    """

    second: Tensor | None = None
    diagonal: Tensor | None = None
    known: Factor | None = None

    @cached_property
    def factor(self) -> Factor | None:
        """`prepare(second)`, made once, or what was known of it."""
        if self.known is None and self.second is not None:
            return prepare(self.second)
        return self.known


class Rounding(Protocol):
    """A rounding method; packages bring theirs as entry points of `mixq.roundings`.

    Attributes:
        needs: what it makes of calibration data: `nothing`; `diagonal`, mean squares of inputs,
            which it can do without; `second`, their second moments, without which it is refused.
            What fits those may learn noise, so it is used only where it errs no more than `clip`
            on samples that it has not seen.
    """

    @property
    def needs(self) -> Needs:
        """See above."""
        ...

    def round(self, weight: Tensor, fmt: Format, inputs: Inputs) -> Codes:
        """Codes of a matrix.

        The same arguments give the same codes, and arguments are left as they are.

        Args:
            weight: float32 of shape (rows, columns).
            fmt: an integer format; its method is this one.
            inputs: of the matrix.

        Raises:
            FormatError: if a scale or minimum does not fit into float16.
        """
        ...


def method_of(fmt: Format) -> Rounding:
    """The method that rounds a format's weights.

    Raises:
        PluginError: if its package does not load, or has something else under that name.
    """
    found: Rounding = METHODS.load(fmt.method)
    if getattr(found, "needs", None) not in _NEEDS or not callable(getattr(found, "round", None)):
        raise PluginError(
            f"rounding method {fmt.method!r} of {METHODS.origin(fmt.method)} is no rounding "
            f"method: it must have `needs`, one of {', '.join(_NEEDS)}, and `round`; mend or "
            "uninstall that package"
        )
    return found


def learns(fmt: Format) -> bool:
    """Whether a format's codes fit the calibration data, not only the weights."""
    return not fmt.is_float and method_of(fmt).needs == "second"


@dataclass(frozen=True)
class Nearest:
    """The nearest code; with `cancels`, some codes moved so that errors of a group cancel."""

    cancels: bool = False
    needs: Needs = "nothing"

    def round(self, weight: Tensor, fmt: Format, inputs: Inputs) -> Codes:
        """Codes on the steps of the whole range."""
        grouped = to_groups(weight, fmt)
        steps = range_steps(grouped.amin(2), grouped.amax(2), fmt)
        codes = nearest(grouped, steps, fmt)
        if self.cancels:
            mask = is_weight(weight.shape[0], weight.shape[1], fmt).to(weight.device)
            exact = positions(grouped, steps, fmt)
            codes = flip_to_cancel(codes, exact, *code_range(fmt), mask)
        return as_codes(codes, steps, weight.shape[1])


@dataclass(frozen=True)
class Clip:
    """The nearest code on searched steps; see `mixq.quantize.clip`."""

    needs: Needs = "diagonal"

    def round(self, weight: Tensor, fmt: Format, inputs: Inputs) -> Codes:
        """Codes of little squared error, weighted by the inputs' mean squares."""
        steps = clip_steps(weight, fmt, inputs.diagonal)
        return as_codes(nearest(to_groups(weight, fmt), steps, fmt), steps, weight.shape[1])


@dataclass(frozen=True)
class Hqq:
    """The nearest code on steps that forgive outliers; see `mixq.quantize.hqq`."""

    needs: Needs = "nothing"

    def round(self, weight: Tensor, fmt: Format, inputs: Inputs) -> Codes:
        """Codes of little p-norm error."""
        steps = hqq_steps(weight, fmt)
        return as_codes(nearest(to_groups(weight, fmt), steps, fmt), steps, weight.shape[1])


@dataclass(frozen=True)
class Gptq:
    """Later columns make up for the errors of earlier ones; see `mixq.quantize.gptq`."""

    needs: Needs = "second"

    def round(self, weight: Tensor, fmt: Format, inputs: Inputs) -> Codes:
        """Codes and steps of little output error."""
        factor = inputs.factor
        if factor is None:
            raise FormatError(f"{fmt.name} is rounded by second moments, but there are none")
        codes, steps = gptq(weight, fmt, clip_steps(weight, fmt, inputs.diagonal), factor)
        return Codes(codes.to(torch.uint8), steps)


RTN: Final[Rounding] = Nearest()
SQUANT: Final[Rounding] = Nearest(cancels=True)
CLIP: Final[Rounding] = Clip()
HQQ: Final[Rounding] = Hqq()
GPTQ: Final[Rounding] = Gptq()
