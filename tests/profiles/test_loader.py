from __future__ import annotations

import os
import re
import string
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import ProfileError, UsageError
from mixq.formats import Format
from mixq.graph.work import OpKind
from mixq.profiles import available, load
from mixq.profiles.document import MAX_BYTES
from mixq.profiles.loader import parse
from mixq.profiles.quantity import UNITS, Quantity
from mixq.profiles.schema import SPECIAL_OPS, Op

SHIPPED = (
    *("apple_m2", "arm_mobile", "graviton3", "intel_amx", "intel_cpu", "jetson_orin"),
    *("nvidia_a100", "nvidia_a100_40gb", "nvidia_h100", "nvidia_h200"),
    *("raspberry_pi_4", "raspberry_pi_5"),
)
FOLDER = Path(__file__).parents[2] / "profiles"
TEXT = (FOLDER / "intel_cpu.toml").read_text(encoding="utf-8")
CLOCK = 'clock = { value = 2.3, unit = "GHz"'
CLOCK_LINE = next(line for line in TEXT.splitlines() if line.startswith(CLOCK))


def quantities(node: object) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        if "value" in node:
            return [node]
        return [found for child in node.values() for found in quantities(child)]
    if isinstance(node, list):
        return [found for child in node for found in quantities(child)]
    return []


def test_shipped_profiles_are_listed() -> None:
    assert available() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_loads(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    # Measured kernels of profiles/fitted join the shipped profile; no search sees them.
    assert profile.fingerprint == load(str(FOLDER / f"{name}.toml")).fingerprint
    assert re.fullmatch("sha256:[0-9a-f]{64}", profile.fingerprint)
    assert profile.runtime() is profile.runtime("onnxruntime")


def test_published_chips_are_listed_on_demand_and_loadable_by_name() -> None:
    more = set(available(published=True)) - set(SHIPPED)
    assert {"rk3588", "xeon_8180", "apple_m4"} <= more
    for name in available(published=True):
        assert load(name).name == name
        assert load(name).runtime().searchable


FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.toml"))


@pytest.mark.parametrize("file", FILES)
def test_every_number_has_a_source(file: str) -> None:
    document = tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))
    found = quantities(document)
    assert found or "extends" in document
    for number in found:
        # A guess says so, anything else names a place, a measurement or the number that it copies.
        assert re.match(r"assumed: |as |fitted|.*[/\d]", number["source"])


def test_ops_are_those_of_the_graph() -> None:
    assert set(get_args(Op)) == {*get_args(OpKind), *SPECIAL_OPS}


def test_numbers_of_the_xeon_in_si() -> None:
    xeon = load("intel_cpu")
    assert xeon.cores == 40
    assert xeon.dram_bytes_per_s == 204.8e9
    assert xeon.core_ops_per_s["fp32"] == 147.2e9
    assert xeon.core_ops_per_s["int8"] == 588.8e9
    assert xeon.ops_per_s("fp32", 8) == 8 * 147.2e9
    assert xeon.memory_bytes_per_s(8) == 96e9
    assert xeon.memory_bytes_per_s(40) == 204.8e9
    assert xeon.runtime().memory_bytes == 10_500_000


@pytest.mark.parametrize(
    ("value", "unit", "clock_hz", "si"),
    [
        (204.8, "GB/s", 1.0, 204.8e9),
        (0.2048, "TB/s", 1.0, 204.8e9),
        (1.25, "MiB", 1.0, 1310720.0),
        (7, "us", 1.0, 7e-6),
        (3.3, "ps/weight", 1.0, 3.3e-12),
        (64, "op/cycle", 2.3e9, 147.2e9),
        (19.5, "Top/s", 2.3e9, 19.5e12),
    ],
)
def test_units_convert_exactly(value: float, unit: str, clock_hz: float, si: float) -> None:
    assert Quantity(value=value, unit=unit, source="s").si(clock_hz) == si


def test_no_unit_has_two_meanings() -> None:
    names = [name for units in UNITS.values() for name in units]
    assert len(set(names)) == len(names)


REFUSED = {
    "unknown key": (
        CLOCK,
        f"clok = 1\n{CLOCK}",
        "line 11: chip.clok: unknown key; did you mean 'clock'? keys are cores,",
    ),
    "missing key": (CLOCK_LINE, "", "line 8: chip.clock: is missing"),
    "wrong dimension": (CLOCK, CLOCK.replace("GHz", "GB"), "chip.clock: unit 'GB'"),
    "unknown unit": (CLOCK, CLOCK.replace("GHz", "ghz"), "write one of MHz, GHz"),
    "zero": (CLOCK, CLOCK.replace("2.3", "0"), "chip.clock.value: "),
    "negative": (CLOCK, CLOCK.replace("2.3", "-2.3"), "chip.clock.value: "),
    "nan": (CLOCK, CLOCK.replace("2.3", "nan"), "chip.clock.value: "),
    "infinite": (CLOCK, CLOCK.replace("2.3", "inf"), "chip.clock.value: "),
    "overflow": (CLOCK, CLOCK.replace("2.3", "1e300"), "outside 1e-30..1e30"),
    "underflow": (CLOCK, CLOCK.replace("2.3", "1e-320"), "outside 1e-30..1e30"),
    "huge integer": (CLOCK, CLOCK.replace("2.3", "0x" + "f" * 4000), "chip.clock.value: "),
    "text for number": (CLOCK, CLOCK.replace("2.3", '"2.3"'), "chip.clock.value: "),
    "bool for number": (CLOCK, CLOCK.replace("2.3", "true"), "chip.clock.value: "),
    "bare number": (CLOCK, f"clock = 2.3 # {CLOCK}", "chip.clock: "),
    "no source": (f"{CLOCK}, source", f"{CLOCK}, sauce", "chip.clock.source: is missing"),
    "fractional cores": ("value = 40,", "value = 40.5,", "whole number"),
    "efficiency above one": (
        "compute_efficiency = { value = 0.77",
        "compute_efficiency = { value = 1.77",
        "runtime.onnxruntime.kernel number 2 ('MLAS convolution') compute_efficiency: an effic",
    ),
    "speed-up by dequantizing": ("value = 1.3,", "value = 0.9,", "at least 1"),
    "core faster than chip": ("value = 12.0,", "value = 900,", "exceeds dram_bandwidth"),
    "cache slower than memory": ("value = 8, unit", "value = 1, unit", "core_bandwidth: "),
    "unknown op": ('ops = ["conv"]', 'ops = ["convolve"]', "ops.0"),
    "op without fp32": ('ops = ["conv"]', 'ops = ["gemm"]', "no 32-bit kernel serves conv"),
    "width 3": ("bits = 2\n", "bits = 3\n", "no format has 3 bits"),
    "group of 512": ("[16, 256]", "[16, 512]", "group_sizes must lie in 16..256"),
    "no groups": ("group_sizes = [16, 256]", "", "needs group_sizes or per_channel"),
    "float with groups": ("bits = 32\n", "bits = 32\nper_channel = true\n", "no grids and no gr"),
    "unknown activations": (
        '["dynamic"]',
        '["int8"]',
        "kernel number 5 ('DynamicQuantizeMatMul') activations.0",
    ),
    "no activations": (
        '["dynamic"]',
        "[]",
        "kernel number 5 ('DynamicQuantizeMatMul') activations: ",
    ),
    "activations at 4 bits": (
        "bits = 4\ngrids",
        'bits = 4\nactivations = ["dynamic"]\ngrids',
        "only an 8-bit kernel has dynamic or static activations",
    ),
    "rate not given": ('compute = "int8"', 'compute = "tf32"', "core_peak does not give"),
    "unknown runtime": ('runtime = "onnxruntime"', 'runtime = "ort"', "one of onnxruntime"),
    "too many threads": ('8, unit = "threads"', '80, unit = "threads"', "exceeds chip.cores"),
    "same name twice": (
        '"MatMulNBits 2-bit slow path"',
        '"MatMulNBits 2-bit"',
        "kernel number 10 ('MatMulNBits 2-bit') name: two kernels of one name",
    ),
    "unknown kernel key": (
        "unpack = { value = 7,",
        "unpak = { value = 7,",
        "('MatMulNBits 2-bit slow path') unpak: unknown key; did you mean 'unpack'?",
    ),
    "unit of another dimension": (
        'unpack = { value = 7, unit = "ns/weight"',
        'unpack = { value = 7, unit = "GB/s"',
        "unit 'GB/s' is not one of time per weight; write one of ns/weight, ps/weight",
    ),
    "negative number": ("unpack = { value = 7,", "unpack = { value = -7,", "unpack.value: "),
    "missing number": ("unpack = { value = 7,", "unpack = {", "unpack.value: is missing"),
    "tile of none": ("bits = 32\n", "bits = 32\ntile_m = 0\n", "('MLAS sgemm') tile_m: "),
    "tile of half": ("bits = 32\n", "bits = 32\ntile_n = 1.5\n", "('MLAS sgemm') tile_n: "),
    "rows the wrong way round": (
        "bits = 8\n",
        "bits = 8\nleast_rows = 9\nmost_rows = 4\n",
        "('DynamicQuantizeMatMul') least_rows: exceeds most_rows, which is 4",
    ),
    "rows that no fp32 serves": (
        'ops = ["conv"]\nbits = 32',
        'ops = ["conv"]\nbits = 32\nleast_rows = 4',
        "no 32-bit kernel serves conv of 1 to 3 rows",
    ),
    "more rows than fp32 serves": (
        'ops = ["conv"]\nbits = 32',
        'ops = ["conv"]\nbits = 32\nmost_rows = 4',
        "no 32-bit kernel serves conv of 5 to 1099511627776 rows",
    ),
    "depthwise at 8 bits alone": (
        'ops = ["gemm"]\nbits = 8',
        'ops = ["gemm", "depthwise"]\nbits = 8',
        "no 32-bit kernel serves depthwise; every op needs one",
    ),
    "spread of zero": ("bits = 32\n", 'bits = 32\nspread = { value = 0, unit = "1" }\n', "spread"),
    "caches upside down": (
        'value = 60, unit = "MB"',
        'value = 60, unit = "kB"',
        "the smallest to",
    ),
    "far cache too fast": (
        'value = 8, unit = "B/cycle"',
        'value = 80, unit = "B/cycle"',
        "slowest",
    ),
    "unknown base": (
        "schema_version = 2",
        'schema_version = 2\nextends = "intel_cpus"',
        "line 3: extends: 'intel_cpus' is not a shipped profile and not a .toml file; ",
    ),
    "base that is no name": (
        "schema_version = 2",
        "schema_version = 2\nextends = 3",
        "not a name",
    ),
    "other schema": ("schema_version = 2", "schema_version = 1", "schema_version: "),
    "line break in name": ('name = "Gather"', 'name = "Gath\\ner"', "kernel number 3"),
    "truncated": (TEXT[len(TEXT) // 2 :], "", "not readable as TOML"),
    "deep nesting": (TEXT, "a = " + "[" * 100_000, "not readable as TOML"),
    "endless digits": (TEXT, "a = " + "9" * 10_000, "not readable as TOML"),
    "empty": (TEXT, "", "line 1: schema_version: is missing"),
    "too large": (TEXT, "#" * (MAX_BYTES + 1), "bytes allowed"),
}


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(old: str, new: str, expected: str) -> None:
    assert old in TEXT
    with pytest.raises(ProfileError) as caught:
        parse(TEXT.replace(old, new).encode(), origin="mine.toml")
    message = str(caught.value)
    assert expected in message
    assert message.startswith("profile 'mine.toml': ")
    assert message.isprintable()
    assert len(message) < 700


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"\xef\xbb\xbfa=1", b"a = 1\x00", bytes(range(256))]
)
def test_bytes_that_are_no_text(content: bytes) -> None:
    with pytest.raises(ProfileError, match="'x'"):
        parse(content, origin="x")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 40), st.text(string.printable, max_size=6))
def test_damage_never_ends_in_another_error(at: int, length: int, new: str) -> None:
    damaged = (TEXT[:at] + new + TEXT[at + length :]).encode()
    message = ""
    try:
        parse(damaged, origin="damaged")
    except ProfileError as error:
        message = str(error)
    assert message.isprintable()


@pytest.mark.parametrize(
    ("wrong", "suggestion"),
    [("intel", "intel_cpu"), ("nvidia_a10", "nvidia_a100"), ("ARM_mobil", "arm_mobile")],
)
def test_unknown_name_suggests_the_nearest(wrong: str, suggestion: str) -> None:
    with pytest.raises(ProfileError, match=f"did you mean .*'{suggestion}'.*mixq hardware list"):
        load(wrong)


def test_unknown_name_without_neighbour_lists_all() -> None:
    with pytest.raises(
        ProfileError, match="shipped are apple_m2, arm_mobile, graviton3, intel_amx"
    ):
        load("zzzz")


@pytest.mark.parametrize(
    "name", ["no/such/file.toml", "nofile.toml", "a\0b.toml", "x" * 5000 + ".toml"]
)
def test_unreadable_path(name: str) -> None:
    with pytest.raises(ProfileError, match="cannot be read") as caught:
        load(name)
    assert len(str(caught.value)) < 500


def test_folder_and_fifo_are_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo):
        with pytest.raises(ProfileError, match="not a regular file"):
            load(f"{path}{os.sep}" if path is tmp_path else str(path))


def test_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    with path.open("wb") as stream:
        stream.truncate(10 * 2**30)  # sparse: takes no disk
    with pytest.raises(ProfileError, match="bytes allowed"):
        load(str(path))


def test_user_file_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "my chip.toml"
    path.write_text(TEXT.replace('name = "intel_cpu"', 'name = "mine"'), encoding="utf-8")
    assert load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("kernel", "fmt", "reads"),
    [
        ("MatMulNBits 2-bit", "w2g64", True),
        ("MatMulNBits 2-bit", "w2g64-zp", True),
        ("MatMulNBits 2-bit", "w2g256", False),
        ("MatMulNBits 2-bit", "w2", False),
        ("MatMulNBits 2-bit", "w4g64", False),
        ("MatMulNBits 8-bit", "w8g48", False),
        ("MatMulNBits 8-bit", "w8g64", True),
        ("MatMulNBits 8-bit", "w8a8g64-dynamic", False),
        ("DynamicQuantizeMatMul", "w8a8-dynamic", True),
        ("DynamicQuantizeMatMul", "w8a8-reduced-dynamic", True),
        ("DynamicQuantizeMatMul", "w8a8-static", False),
        ("DynamicQuantizeMatMul", "w8a8-zp-dynamic", False),
        ("DynamicQuantizeMatMul", "w8", False),
        ("QuantizeLinear + MatMulIntegerToFloat", "w8a8-static", True),
        ("QuantizeLinear + MatMulIntegerToFloat", "w8a8-gptq-static", True),
        ("QuantizeLinear + MatMulIntegerToFloat", "w8a8-dynamic", False),
        ("MLAS sgemm", "w32", True),
        ("MLAS sgemm", "w16", False),
    ],
)
def test_kernel_reads(kernel: str, fmt: str, reads: bool) -> None:
    kernels = {one.name: one for one in load("intel_cpu").runtime().kernels}
    assert kernels[kernel].reads(Format.parse(fmt)) is reads


def test_unknown_runtime_and_threads() -> None:
    xeon = load("intel_cpu")
    with pytest.raises(ProfileError, match=r"runtime 'tensorrt' .* choose one of onnxruntime"):
        xeon.runtime("tensorrt")
    for threads in (0, -1, 41):
        with pytest.raises(UsageError, match="choose 1 to 40"):
            xeon.threads(threads)
    assert xeon.threads() == 8


@pytest.mark.parametrize("name", SHIPPED)
def test_no_kernel_rounds_inputs_unless_it_says_so(name: str) -> None:
    """Weights of 8 bits with fp32 inputs and with 8-bit inputs are different kernels."""
    for kernel in load(name).runtime().kernels:
        for activation in ("dynamic", "static"):
            grids = (Format(8, size, "symmetric", activation=activation) for size in (None, 64))
            served = any(kernel.reads(fmt) for fmt in grids)
            assert served == (activation in kernel.activations)
        assert kernel.activations == ("none",) or "none" not in kernel.activations
