"""RoundingContract: what every rounding method must keep, whatever it minimises."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Final

import pytest
import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import DATA_FREE, GRIDS, Format
from mixq.quantize.codes import Codes, code_range, dequantize
from mixq.quantize.methods import Needs, method_of
from mixq.quantize.rounding import input_error, round_weights
from mixq.quantize.weights import pack_codes

FORMATS: Final = tuple(
    Format(bits, group_size, grid)
    for bits in (8, 4, 2)
    for grid in GRIDS[bits]
    for group_size in ((None, 16) if bits == 4 else (16,))
)


def _random(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _moments(columns: int, samples: int = 200, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, columns, generator=generator)
    # Neighbours and a mean in common, as inputs of layers have.
    inputs = inputs + inputs.roll(1, dims=1) + 0.5
    return inputs.T @ inputs / samples


# 40 columns in groups of 16: the last group is ragged.
_COLUMN: Final = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
_CONSTANT: Final = torch.tensor([[1.0], [-0.3], [0.0625], [800.0]])
WEIGHTS: Final = {
    "ordinary": _random(4, 40),
    "all zero": torch.zeros(4, 40),
    "a zero row": _random(4, 40) * _COLUMN,
    "constant rows": _CONSTANT.expand(4, 40).contiguous(),
    "one column": _random(4, 1),
    "one weight": _random(1, 1),
    "an outlier": _random(4, 40).index_put(
        (torch.tensor([0]), torch.tensor([0])), torch.tensor(1e4)
    ),
    "below float16": _random(4, 40) * 1e-9,
    "subnormal": torch.full((4, 40), 1e-45),
    "far from zero": _random(4, 40) * 1e-3 + 1000.0,
    "two values": _random(4, 40).sign(),
    "bfloat16": _random(4, 40).bfloat16(),
    "float16": _random(4, 40).half(),
    "float64": _random(4, 40).double(),
}
MOMENTS: Final = {
    "none seen": torch.zeros(40, 40),
    "one sample": _moments(40, samples=1),
    "fewer samples than columns": _moments(40, samples=10),
    "columns alike": torch.ones(40, 40),
    "one column seen": torch.zeros(40, 40).index_put(
        (torch.tensor([3]), torch.tensor([3])), torch.tensor(5.0)
    ),
    "tiny": _moments(40) * 1e-30,
    "huge": _moments(40) * 1e30,
    "bfloat16": _moments(40).bfloat16(),
}
UNUSABLE: Final = (torch.nan, torch.inf, -torch.inf, 1e38)
every_format = pytest.mark.parametrize("plain", FORMATS, ids=lambda fmt: fmt.name)


class RoundingContract:
    """Duties of one rounding method; inherit and name it.

        class TestDescent(RoundingContract):
            method = "descent"

    Attributes:
        method: its name in formats; its package is installed, or the test registers it.
        worse: share by which its `objective` may exceed round-to-nearest's.
        keeps_constants: whether rows of one value come back to the last place; not where codes
            make up for each other.
    """

    method: ClassVar[str]
    worse: ClassVar[float] = 0.0
    keeps_constants: ClassVar[bool] = True

    def objective(self, weight: Tensor, rounded: Tensor, fmt: Format, second: Tensor) -> float:
        """What the method minimises; by default the output error for the inputs that it sees.

        Args:
            weight: float32 of shape (rows, columns).
            rounded: what the codes stand for, same shape.
            fmt: the format, for groups.
            second: E[x x^T] of the inputs, shape (columns, columns).
        """
        needs = self._needs(fmt)
        if needs == "nothing":
            return input_error(weight, rounded)
        if needs == "diagonal":
            return input_error(weight, rounded, diagonal=second.diagonal())
        return input_error(weight, rounded, second)

    @every_format
    def test_its_name_stands_in_formats(self, plain: Format) -> None:
        fmt = self._format(plain)
        assert Format.parse(fmt.name) == fmt
        assert fmt.needs_codes == (self.method not in DATA_FREE)

    @every_format
    def test_codes_stand_for_finite_weights_and_pack(self, plain: Format) -> None:
        fmt = self._format(plain)
        for case, weight in WEIGHTS.items():
            codes = round_weights(weight, fmt, _moments(weight.shape[1]))
            steps, groups = codes.steps, (len(weight), fmt.groups_per_row(weight.shape[1]))
            assert (codes.values.shape, codes.values.dtype) == (weight.shape, torch.uint8), case
            assert (steps.scales.shape, steps.scales.dtype) == (groups, torch.float16), case
            assert (steps.zeros is not None) == (fmt.grid == "zero-point"), case
            assert (steps.minimums is not None) == (fmt.grid == "affine"), case
            low, high = code_range(fmt)
            assert low <= int(codes.values.min()) <= int(codes.values.max()) <= high, case
            back, packed = dequantize(codes, fmt), pack_codes(codes, fmt, weight)
            assert bool(back.isfinite().all()), case
            assert packed.stored_bytes == fmt.stored_bytes(*weight.shape), case
            assert torch.equal(packed.unpacked(), back.to(weight.dtype)), case
            assert bool((back[(weight == 0).all(1)] == 0).all()), case
            constant = (weight == weight[:, :1]).all(1)
            if self.keeps_constants:
                # A scale in float16, maybe a subnormal one: 2^-11 of it, times codes far out.
                off = (back[constant] - weight[constant].float()).abs()
                assert bool((off <= 2**-10 * weight[constant].abs() + 2**-24).all()), case

    @every_format
    def test_weights_on_the_grid_stay(self, plain: Format) -> None:
        fmt = self._format(plain)
        low, high = code_range(fmt)
        codes = torch.randint(low, high + 1, (6, 40), generator=torch.Generator().manual_seed(2))
        size = fmt.group_size or 40
        codes[:, ::size], codes[:, 1::size] = low, high  # so that each group spans the range
        middle = 0 if fmt.grid == "affine" else 1 << (fmt.bits - 1)
        weight = (codes - middle) * 2.0 ** torch.arange(-3.0, 3.0)[:, None]
        assert torch.equal(dequantize(self._rounded(weight, fmt), fmt), weight)

    @every_format
    def test_it_is_no_worse_than_the_nearest_codes(self, plain: Format) -> None:
        fmt, second = self._format(plain), _moments(40)
        weight = _random(48, 40, seed=3).pow(3) + 0.3
        own, nearest = (
            self.objective(weight, dequantize(round_weights(weight, f, second), f), fmt, second)
            for f in (fmt, plain)
        )
        assert own <= nearest * (1 + self.worse) * (1 + 1e-6)

    @every_format
    def test_the_same_weights_give_the_same_codes(self, plain: Format) -> None:
        """Whatever their layout in memory and dtype are; and nothing is written to them."""
        fmt, second = self._format(plain), _moments(50)
        weight = _random(50, 6).half()
        scattered = weight.float().T
        kept = (scattered.clone(), second.clone())
        first = round_weights(scattered, fmt, second[None])
        assert torch.equal(scattered, kept[0])
        assert torch.equal(second, kept[1])
        _assert_same(first, round_weights(weight.T.contiguous(), fmt, second.clone()))

    @every_format
    def test_rows_are_rounded_by_themselves(self, plain: Format) -> None:
        fmt, second, weight = self._format(plain), _moments(40), _random(12, 40)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
        whole = round_weights(weight, fmt, second)
        moved = round_weights(weight[order], fmt, second)
        assert torch.equal(moved.values, whole.values[order])
        assert torch.equal(moved.steps.scales, whole.steps.scales[order])

    @every_format
    def test_blocks_of_rows_meet_their_own_inputs(self, plain: Format) -> None:
        """As the groups of a convolution do."""
        fmt, weight = self._format(plain), _random(6, 40)
        seconds = [_moments(40, seed=seed) for seed in (5, 6)]
        whole = round_weights(weight, fmt, torch.stack(seconds))
        for half, second in enumerate(seconds):
            rows = slice(3 * half, 3 * half + 3)
            own = round_weights(weight[rows], fmt, second)
            assert torch.equal(whole.values[rows], own.values)

    @every_format
    def test_any_inputs_give_usable_weights(self, plain: Format) -> None:
        fmt, weight = self._format(plain), _random(4, 40)
        for case, second in MOMENTS.items():
            back = dequantize(round_weights(weight, fmt, second), fmt)
            assert float((back - weight).square().sum()) < float(weight.square().sum()), case

    @every_format
    def test_it_needs_of_inputs_what_it_says(self, plain: Format) -> None:
        fmt, weight = self._format(plain), _random(32, 40)
        one, other = (round_weights(weight, fmt, _moments(40, seed=seed)) for seed in (1, 7))
        needs = self._needs(fmt)
        assert torch.equal(one.values, other.values) == (needs == "nothing")
        if needs == "second":
            with pytest.raises(FormatError, match="second moments") as refused:
                round_weights(weight, fmt, diagonal=torch.ones(40))
            assert str(refused.value).isprintable()
        else:
            _assert_same(one, round_weights(weight, fmt, diagonal=_moments(40).diagonal()))
            round_weights(weight, fmt)  # nothing known of inputs

    @every_format
    def test_weights_that_no_scale_holds_are_refused(self, plain: Format) -> None:
        """What is not finite, and what is beyond float16, in which scales are stored."""
        for value in UNUSABLE:
            weight = _random(2, 40)
            weight[1, 7] = value
            with pytest.raises(FormatError, match="float16") as refused:
                self._rounded(weight, self._format(plain))
            assert str(refused.value).isprintable(), value

    def _format(self, plain: Format) -> Format:
        return replace(plain, method=self.method)

    @staticmethod
    def _needs(fmt: Format) -> Needs:
        return method_of(fmt).needs

    @staticmethod
    def _rounded(weight: Tensor, fmt: Format) -> Codes:
        return round_weights(weight, fmt, _moments(weight.shape[1]))


def _assert_same(one: Codes, other: Codes) -> None:
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.steps.scales, other.steps.scales)
