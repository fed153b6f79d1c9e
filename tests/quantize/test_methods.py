"""Every rounding method of mixq keeps the contract that those of other packages keep."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from mixq.formats import Format, Method
from mixq.quantize.codes import is_weight, to_groups
from mixq.quantize.hqq import P
from mixq.testing import RoundingContract


class TestRtn(RoundingContract):
    method = "rtn"


class TestSquant(RoundingContract):
    method = "squant"
    keeps_constants = False

    def objective(self, weight: Tensor, rounded: Tensor, fmt: Format, second: Tensor) -> float:
        """Sums of errors by groups."""
        errors = to_groups(weight - rounded, fmt) * is_weight(1, weight.shape[1], fmt)
        return float(errors.double().sum(2).abs().sum())


class TestClip(RoundingContract):
    method = "clip"


class TestHqq(RoundingContract):
    method = "hqq"

    def objective(self, weight: Tensor, rounded: Tensor, fmt: Format, second: Tensor) -> float:
        """p-norms."""
        return float((weight - rounded).double().abs().pow(P).sum())


class TestGptq(RoundingContract):
    method = "gptq"
    keeps_constants = False


def test_none_is_left_out() -> None:
    tested = {kind.method for kind in RoundingContract.__subclasses__()}
    assert tested >= set(get_args(Method))
