"""Format: which combinations exist, their names, and how many bytes they take."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import FormatError
from mixq.formats import (
    GRIDS,
    GROUP_SIZES,
    WIDTHS,
    Activation,
    Format,
    Grid,
    Method,
    packed_bytes,
)

law = settings(derandomize=True, deadline=None, max_examples=200)
integer_formats = st.sampled_from([8, 4, 2]).flatmap(
    lambda bits: st.builds(
        Format,
        bits=st.just(bits),
        group_size=st.none() | st.integers(*GROUP_SIZES),
        grid=st.sampled_from(GRIDS[bits]),
        method=st.sampled_from(get_args(Method)),
        activation=st.sampled_from(get_args(Activation)),
        bias_corrected=st.booleans(),
    )
)
formats = integer_formats | st.sampled_from([Format(32), Format(16), Format(16, grid="bfloat16")])


@law
@given(formats)
def test_a_name_is_read_back(fmt: Format) -> None:
    assert Format.parse(fmt.name) == fmt


@pytest.mark.parametrize(
    ("fmt", "name"),
    [
        (Format(32), "w32"),
        (Format(16), "w16"),
        (Format(8), "w8"),
        (Format(4, 64), "w4g64"),
        (Format(2, 256, "zero-point"), "w2g256-zp"),
        (Format(4, 16, "zero-point", "squant"), "w4g16-zp-squant"),
        (Format(8, grid="reduced"), "w8-reduced"),
        (Format(4, 32, "signed", "clip"), "w4g32-signed-clip"),
        (Format(2, 64, "affine", "gptq"), "w2g64-affine-gptq"),
        (Format(2, 64, "affine", "hqq", bias_corrected=True), "w2g64-affine-hqq-bc"),
        (Format(16, grid="bfloat16"), "w16-bf16"),
        (Format(8, activation="dynamic"), "w8a8-dynamic"),
        (
            Format(8, 128, "reduced", "gptq", "static", bias_corrected=True),
            "w8a8g128-reduced-gptq-bc-static",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_are_canonical(fmt: Format, name: str) -> None:
    assert fmt.name == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "w", "4", "w04", "w4g", "w4g064", "w4g+64", "W4", "w4 ", " w4", "w4\n", "w3", "w64"),
        *("w4g15", "w4g257", "w4g0", "w32g64", "w16-zp", "w32-squant", "w4-squant-zp", "w4-zp-zp"),
        *(
            "w4-symmetric",
            "w4-rtn",
            "w4-bf16",
            "w16-zp-bf16",
            "w4-reduced",
            "w32-bf16",
            "w4-bc-bc",
        ),
        *("w8a8", "w8-dynamic", "w8a4-dynamic", "w8g64a8-dynamic", "w16a8-dynamic", "w32-bc"),
        *("w8-none", "w8a8-dynamic-bc", "w8a8-static-dynamic", "w4-bc-gptq"),
        *("w\u0664", "w4g\u0666\u0664", "w4g" + "9" * 100_000, "w" + "4" * 100_000, "w4\x00"),
    ],
    ids=lambda name: ascii(name)[:30],
)
def test_what_is_not_a_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(FormatError) as refused:
        Format.parse(name)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 3},
        {"bits": 0},
        {"bits": -4},
        {"bits": True},
        {"bits": 8.0},
        {"bits": "8"},
        {"bits": 10**4000},
        {"bits": 4, "group_size": 15},
        {"bits": 4, "group_size": 257},
        {"bits": 4, "group_size": 64.0},
        {"bits": 4, "group_size": "64"},
        {"bits": 4, "group_size": True},
        {"bits": 4, "grid": "bfloat16"},
        {"bits": 4, "grid": "reduced"},
        {"bits": 4, "grid": None},
        {"bits": 4, "bias_corrected": 1},
        {"bits": 4, "bias_corrected": "yes"},
        {"bits": 16, "bias_corrected": True},
        {"bits": 16, "activation": "dynamic"},
        {"bits": 32, "grid": "bfloat16"},
        {"bits": 4, "grid": "x\n" * 1000},
        {"bits": 4, "method": "magic"},
        {"bits": 4, "activation": "dynamic?"},
        {"bits": 32, "group_size": 64},
        {"bits": 16, "grid": "zero-point"},
        {"bits": 32, "method": "squant"},
    ],
    ids=lambda fields: repr(fields)[:60],
)
def test_impossible_formats_are_refused_at_birth(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as refused:
        Format(**fields)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("fmt", "rows", "columns", "stored"),
    [
        # Worked by hand: codes + 2 bytes per scale + zero points at the width of the codes.
        (Format(32), 3, 5, 60),
        (Format(16), 3, 5, 30),
        (Format(8), 3, 5, 15 + 6),
        (Format(8, 16, "zero-point"), 3, 17, 51 + 12 + 6),
        (Format(4), 3, 5, 8 + 6),
        (Format(4, 16), 3, 33, 50 + 18),
        (Format(4, 16, "zero-point"), 3, 33, 50 + 18 + 5),
        (Format(2), 1, 1, 1 + 2),
        (Format(2, 16, "zero-point"), 5, 16, 20 + 10 + 2),
        (Format(2, 256, "zero-point"), 1, 257, 65 + 4 + 1),
        (Format(16, grid="bfloat16"), 3, 5, 30),
        (Format(8, grid="reduced"), 3, 5, 15 + 6),
        (Format(4, 16, "signed"), 3, 33, 50 + 18),
        (Format(4, 16, "affine"), 3, 33, 50 + 18 + 18),
        (Format(4, 16, "affine", "gptq", bias_corrected=True), 3, 33, 50 + 18 + 18),
        (Format(8, activation="dynamic"), 3, 5, 15 + 6),
        (Format(8, activation="static"), 3, 5, 15 + 6 + 5),
    ],
    ids=lambda value: value.name if isinstance(value, Format) else str(value),
)
def test_bytes_by_hand(fmt: Format, rows: int, columns: int, stored: int) -> None:
    assert fmt.stored_bytes(rows, columns) == stored


@pytest.mark.parametrize("element_bytes", [2, 4, 8], ids=["half", "single", "double"])
def test_only_32_bits_depend_on_what_the_model_holds(element_bytes: int) -> None:
    assert Format(32).stored_bytes(3, 7, element_bytes) == 21 * element_bytes
    for fmt in (Format(16), Format(8), Format(4, 16), Format(2, 32, "zero-point")):
        assert fmt.stored_bytes(3, 7, element_bytes) == fmt.stored_bytes(3, 7)


@law
@given(integer_formats, st.integers(1, 300), st.integers(1, 600))
def test_groups_cover_a_row(fmt: Format, rows: int, columns: int) -> None:
    groups = fmt.groups_per_row(columns)
    size = fmt.group_size or columns
    assert (groups - 1) * size < columns <= groups * size
    assert fmt.stored_bytes(rows, columns) >= rows * columns * fmt.bits / 8 + rows * groups * 2


@pytest.mark.parametrize(
    ("grid", "bits_per_weight"),
    [("symmetric", 4.25), ("signed", 4.25), ("zero-point", 4.3125), ("affine", 4.5)],
)
def test_bits_per_weight_in_groups_of_64(grid: Grid, bits_per_weight: float) -> None:
    assert Format(4, 64, grid).stored_bytes(384, 1536) * 8 == 384 * 1536 * bits_per_weight


@law
@given(formats)
def test_codes_are_kept_unless_the_weights_tell_them(fmt: Format) -> None:
    from_weights = fmt.method in ("rtn", "squant")
    plain = fmt.activation != "static" and not fmt.bias_corrected
    assert fmt.needs_codes == (not fmt.is_float and not (from_weights and plain))


@law
@given(st.integers(0, 10**12), st.sampled_from(WIDTHS))
def test_packed_bytes_round_up(count: int, bits: int) -> None:
    assert (packed_bytes(count, bits) - 1) * 8 < count * bits <= packed_bytes(count, bits) * 8
