"""Palette: which formats come out for what a runtime reads, and every refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.cost.build import reads as reads_of
from mixq.errors import MixqError, UsageError
from mixq.formats import GRIDS, WIDTHS, Format
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work
from mixq.profiles import load
from mixq.search.palette import PREFERRED, Palette

Reads = Callable[[Format], bool]
LAWS = settings(derandomize=True, deadline=None, max_examples=60)


def everything(fmt: Format) -> bool:
    return True


def nothing(fmt: Format) -> bool:
    return False


def only(*names: str) -> Reads:
    """A runtime that reads these formats, whatever the rounding."""
    return lambda fmt: (
        Format(fmt.bits, fmt.group_size, fmt.grid, "rtn", fmt.activation).name in names
    )


def names(palette: Palette, width: int, reads: Reads) -> list[str]:
    return [fmt.name for fmt in palette.formats(width, reads)]


CASES: dict[str, tuple[dict[str, Any], int, Reads, list[str]]] = {
    # floats: nothing to choose
    "32": ({}, 32, nothing, ["w32"]),
    "16": ({}, 16, nothing, ["w16"]),
    "bfloat16": ({"half": "bfloat16"}, 16, everything, ["w16-bf16"]),
    "bfloat16-is-not-for-32": ({"half": "bfloat16"}, 32, everything, ["w32"]),
    # below 8 bits: groups of 64 first, the grid that the runtime likes best
    "4": ({}, 4, everything, ["w4g64-zp-gptq", "w4g32-zp-gptq", "w4g128-zp-gptq"]),
    "2": ({}, 2, everything, ["w2g64-zp-gptq", "w2g32-zp-gptq", "w2g128-zp-gptq"]),
    "nothing-reads": (
        {}, 4, nothing, ["w4g64-affine-gptq", "w4g32-affine-gptq", "w4g128-affine-gptq"]
    ),
    "reads-affine": (
        {}, 4, only("w4g64-affine", "w4g32-affine"), ["w4g64-affine-gptq", "w4g32-affine-gptq"]
    ),
    "reads-signed": ({}, 4, only("w4g32-signed", "w4g64"), ["w4g32-signed-gptq"]),
    "reads-symmetric": ({}, 2, only("w2g64", "w2g128"), ["w2g64-gptq", "w2g128-gptq"]),
    "reads-one-size": ({}, 2, only("w2g128-zp", "w2g64"), ["w2g128-zp-gptq"]),
    "reads-another-width": (
        {"group_sizes": (64,)}, 2, only("w4g64-zp"), ["w2g64-affine-gptq"]
    ),
    # what a user asks for
    "sizes": (
        {"group_sizes": (128, None, 16)}, 4, everything,
        ["w4-zp-gptq", "w4g16-zp-gptq", "w4g128-zp-gptq"],
    ),
    "sizes-with-64": (
        {"group_sizes": (None, 256, 64)}, 4, everything,
        ["w4g64-zp-gptq", "w4-zp-gptq", "w4g256-zp-gptq"],
    ),
    "sizes-twice": ({"group_sizes": (32, 32)}, 4, everything, ["w4g32-zp-gptq"]),
    "grids": (
        {"group_sizes": (64, 32), "grids": ("signed", "affine")}, 4, everything,
        ["w4g64-signed-gptq", "w4g64-affine-gptq", "w4g32-signed-gptq", "w4g32-affine-gptq"],
    ),
    "grids-of-which-one-is-read": (
        {"group_sizes": (64,), "grids": ("signed", "affine")}, 4, only("w4g64-affine"),
        ["w4g64-affine-gptq"],
    ),
    "grids-of-which-none-is-read": (
        {"group_sizes": (64,), "grids": ("signed", "affine")}, 4, only("w4g64-zp"),
        ["w4g64-signed-gptq", "w4g64-affine-gptq"],
    ),
    "grids-twice": (
        {"group_sizes": (64,), "grids": ("signed", "signed")}, 4, everything, ["w4g64-signed-gptq"]
    ),
    "rtn": ({"group_sizes": (64,), "method": "rtn"}, 4, everything, ["w4g64-zp"]),
    "squant": ({"group_sizes": (64,), "method": "squant"}, 2, nothing, ["w2g64-affine-squant"]),
    "clip": ({"group_sizes": (64,), "method": "clip"}, 4, everything, ["w4g64-zp-clip"]),
    "hqq": ({"group_sizes": (64,), "method": "hqq"}, 4, everything, ["w4g64-zp-hqq"]),
    # 8 bits: symmetric groups, and the activations that the runtime multiplies
    "8": ({}, 8, everything, ["w8g64-gptq"]),
    "8-rtn": ({"method": "rtn"}, 8, nothing, ["w8g64"]),
    "8-sizes": ({"group_sizes": (128, 32)}, 8, everything, ["w8g128-gptq"]),
    "8-grids-are-for-fewer-bits": ({"grids": ("affine",)}, 8, everything, ["w8g64-gptq"]),
    "8-activations": (
        {"activations": ("none", "dynamic", "static"), "method": "rtn"}, 8, everything,
        ["w8g64", "w8a8-dynamic", "w8a8-static"],
    ),
    "8-activations-that-are-read": (
        {"activations": ("none", "dynamic", "static"), "method": "rtn"}, 8,
        only("w8a8-reduced-dynamic", "w8a8-zp-dynamic"), ["w8g64", "w8a8-reduced-dynamic"],
    ),
    "8-activations-that-nothing-reads": (
        {"activations": ("dynamic", "static"), "method": "rtn"}, 8, nothing, ["w8g64"]
    ),
    "8-activations-alone": (
        {"activations": ("static",), "method": "rtn"}, 8, everything, ["w8a8-static"]
    ),
    "8-activations-twice": (
        {"activations": ("none", "dynamic", "none", "dynamic"), "method": "rtn"}, 8, everything,
        ["w8g64", "w8a8-dynamic"],
    ),
    "activations-are-for-8-bits": (
        {"activations": ("none", "dynamic"), "group_sizes": (64,)}, 4, everything,
        ["w4g64-zp-gptq"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "width", "reads", "expected"), CASES.values(), ids=CASES)
def test_formats_of_a_width(
    options: Mapping[str, Any], width: int, reads: Reads, expected: Sequence[str]
) -> None:
    assert names(Palette((width,), **options), width, reads) == expected


def unit_of(kind: str, op: str) -> WeightUnit:
    work = {
        "gemm": Work("gemm", m=32, n=64, k=256),
        "conv": Work("conv", m=64, n=64, k=288),
        "depthwise": Work("conv", m=64, n=1, k=9, groups=64),
        "gather": Work("gather", m=8, n=64, k=0),
        "recurrent": Work("recurrent", m=8, n=64, k=64, repeats=10),
    }[op]
    rows = work.n * work.groups if op != "gather" else 1000
    columns = work.k or work.n
    return WeightUnit("a", (rows, columns), rows, columns, 4, kind, (), (work,))


RUNTIMES: dict[tuple[str, str], list[str]] = {
    ("intel_cpu", "gemm"): ["w4g64-zp", "w4g32-zp", "w4g128-zp"],
    ("intel_cpu", "gather"): ["w4g64-zp", "w4g32-zp", "w4g128-zp"],
    # ONNX Runtime packs neither: any grid will do, so it is the one that errs least.
    ("intel_cpu", "conv"): ["w4g64-affine", "w4g32-affine", "w4g128-affine"],
    ("intel_cpu", "depthwise"): ["w4g64-affine", "w4g32-affine", "w4g128-affine"],
    ("intel_cpu", "recurrent"): ["w4g64-affine", "w4g32-affine", "w4g128-affine"],
    ("arm_mobile", "gemm"): ["w4g64-zp", "w4g32-zp", "w4g128-zp"],
    ("nvidia_a100", "gemm"): ["w4g64-zp", "w4g32-zp", "w4g128-zp"],
}


@pytest.mark.parametrize(("chip", "op"), RUNTIMES, ids="-".join)
def test_formats_of_the_shipped_chips(chip: str, op: str) -> None:
    read, unit = reads_of(load(chip)), unit_of("x", op)
    palette = Palette((4,), method="rtn")
    assert names(palette, 4, lambda fmt: read(unit, fmt)) == RUNTIMES[chip, op]


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no-sizes": ({"group_sizes": ()}, "--group-sizes is empty, but at least one is needed"),
    "small-size": ({"group_sizes": (64, 15)}, "--group-sizes has 15, but a group takes 16 to 256"),
    "large-size": ({"group_sizes": (257,)}, "--group-sizes has 257"),
    "zero-size": ({"group_sizes": (0,)}, "or 'channel' for one scale per channel"),
    "no-grids": ({"grids": ()}, "--grids is empty"),
    "unknown-grid": (
        {"grids": ("signed", "cubic")},
        "--grids has 'cubic', but it takes symmetric,",
    ),
    "8-bit-grid": ({"grids": ("reduced",)}, "--grids has 'reduced'"),
    "16-bit-grid": ({"grids": ("bfloat16",)}, "--grids has 'bfloat16'"),
    "unknown-method": (
        {"method": "magic"},
        "--method has 'magic', but it takes auto, rtn, squant",
    ),
    "no-activations": ({"activations": ()}, "--activations is empty"),
    "unknown-activation": ({"activations": ("none", "int4")}, "--activations has 'int4'"),
    "unknown-half": ({"half": "float8"}, "--half has 'float8', but it takes symmetric, bfloat16"),
    "long": ({"method": "m" * 10**6}, "--method has 'mmm"),
    "escape": ({"grids": ("\x1b[31m\n",)}, r"--grids has '\x1b[31m\n'"),
}


@pytest.mark.parametrize(("options", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Palette((8, 4), **options)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


PALETTES = st.builds(
    Palette,
    bits=st.just(WIDTHS),
    group_sizes=st.lists(st.none() | st.integers(16, 256), min_size=1, max_size=4),
    grids=st.none() | st.lists(st.sampled_from(GRIDS[4]), min_size=1, max_size=4),
    method=st.sampled_from(["auto", "rtn", "squant", "clip", "hqq", "gptq"]),
    activations=st.lists(st.sampled_from(["none", "dynamic", "static"]), min_size=1, max_size=3),
    half=st.sampled_from(GRIDS[16]),
)


@LAWS
@given(palette=PALETTES, seed=st.integers(0, 2**16 - 1))
def test_laws(palette: Palette, seed: int) -> None:
    """Of a runtime that reads some of the formats: never none, each once, read if any is."""

    def reads(fmt: Format) -> bool:
        return sum(map(ord, fmt.name.split("-")[0])) * 7919 % 65536 & seed != 0

    for width in WIDTHS:
        formats = palette.formats(width, reads)
        assert formats
        assert len(set(formats)) == len(formats)
        assert all(fmt.bits == width for fmt in formats)
        if width in (32, 16):
            assert len(formats) == 1
            continue
        method = "gptq" if palette.method == "auto" else palette.method
        assert {fmt.method for fmt in formats} == {method}
        assert not any(fmt.bias_corrected for fmt in formats)
        if width < 8:
            grids = set(palette.grids or PREFERRED)
            assert {fmt.grid for fmt in formats} <= grids | {"affine"}
            assert {fmt.group_size for fmt in formats} <= set(palette.group_sizes)
            assert {fmt.activation for fmt in formats} == {"none"}
        elif any(fmt.activation != "none" for fmt in formats):
            assert {fmt.activation for fmt in formats} <= {"none", *palette.activations}


def test_the_first_format_of_a_width_does_not_depend_on_the_order_of_sizes() -> None:
    for sizes in ((32, 64, 128), (128, 64, 32), (64, 128, 32)):
        assert Palette((4,), group_sizes=sizes).formats(4, everything)[0].group_size == 64


def test_every_refusal_is_a_wrong_usage() -> None:
    with pytest.raises(MixqError) as caught:
        Palette((8,), method="magic")
    assert caught.value.exit_status == 2
