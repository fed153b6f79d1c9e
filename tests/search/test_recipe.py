"""Recipes: what the shipped ones say, what goes before what, and what a file may not say."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import ProfileError, UsageError
from mixq.profiles import load as load_profile
from mixq.search.palette import DEFAULT_GROUP_SIZES, Palette
from mixq.search.recipe import MAX_BYTES, Recipe, available, load, parse
from mixq.search.request import DEFAULT_BITS, demands

SHIPPED = ("cpu_server", "edge_device", "gpu_server", "mobile_device")
FOLDER = Path(__file__).parents[2] / "search" / "recipes"
TEXT = """
name = "mine"
description = "a test"
hardware = "arm_mobile"
batch_size = 2
threads = 3
samples = 4

[formats]
bits = [8, 4]
group_sizes = [32, "channel"]
grids = ["zero-point"]
method = "clip"
activations = ["none", "static"]
half = "bfloat16"

[budget]
target_compression = 5
max_metric_drop = 0
"""


def test_shipped_recipes_are_listed() -> None:
    assert available() == SHIPPED


@pytest.mark.parametrize(
    ("name", "hardware", "batch_size", "palette", "budget"),
    [
        (
            "cpu_server", "intel_cpu", 8,
            Palette((32, 8), (64, 128, None), activations=("dynamic", "static")),
            {"target_compression": 3, "min_speedup": 1},
        ),
        (
            "gpu_server", "nvidia_a100", 32,
            Palette((32, 16, 8), (64,), activations=("none", "dynamic")),
            {"target_compression": 2.5},
        ),
        ("mobile_device", "arm_mobile", None, Palette((32, 8, 4), (64,)),
         {"target_compression": 6}),
        ("edge_device", "arm_mobile", None, Palette((32, 8, 4, 2), (32,)),
         {"target_compression": 8}),
    ],
    ids=["cpu_server", "gpu_server", "mobile_device", "edge_device"],
)  # fmt: skip
def test_what_the_shipped_recipes_set(
    name: str,
    hardware: str,
    batch_size: int | None,
    palette: Palette,
    budget: dict[str, float],
) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.profile() == load_profile(hardware)
    assert (recipe.batch_size, recipe.threads, recipe.samples) == (batch_size, None, None)
    assert recipe.palette() == palette
    assert recipe.demands() == demands(**budget)
    assert recipe == load(FOLDER / f"{name}.toml")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_of_a_budget_has_its_reason(name: str) -> None:
    _, _, budget = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").partition("[budget]\n")
    lines = budget.splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("#") or above.startswith("#")


def test_a_file_sets_everything() -> None:
    recipe = parse(TEXT, origin="mine.toml")
    assert recipe == Recipe(
        name="mine",
        description="a test",
        hardware="arm_mobile",
        formats={
            "bits": (8, 4),
            "group_sizes": (32, None),
            "grids": ("zero-point",),
            "method": "clip",
            "activations": ("none", "static"),
            "half": "bfloat16",
        },
        budget={"target_compression": 5, "max_metric_drop": 0},
        batch_size=2,
        threads=3,
        samples=4,
    )
    assert recipe.palette() == Palette(
        (8, 4), (32, None), ("zero-point",), "clip", ("none", "static"), "bfloat16"
    )


def test_what_is_left_out_is_as_without_a_recipe() -> None:
    for recipe in (Recipe(), parse('name = "bare"', origin="bare.toml")):
        assert recipe.palette() == Palette(DEFAULT_BITS)
        assert recipe.palette().group_sizes == DEFAULT_GROUP_SIZES
        assert recipe.demands() == demands()
    half = parse('name = "x"\n[formats]\nhalf = "float16"', origin="x.toml")
    assert half.palette() == Palette(DEFAULT_BITS)


def test_what_is_given_goes_before_the_recipe() -> None:
    recipe = parse(TEXT, origin="mine.toml")
    changed = recipe.palette(bits=[4], grids=None, method="rtn")
    assert changed == Palette(
        [4], (32, None), ("zero-point",), "rtn", ("none", "static"), "bfloat16"
    )
    assert recipe.demands(target_compression=3, max_size_mb=None) == demands(
        target_compression=3, max_metric_drop=0
    )
    assert recipe.demands(min_speedup=2) == demands(
        target_compression=5, max_metric_drop=0, min_speedup=2
    )
    assert recipe.profile("intel_cpu") == load_profile("intel_cpu")
    assert recipe.profile(load_profile("intel_cpu")) == load_profile("intel_cpu")


AMOUNTS = st.none() | st.floats(0.5, 100)
DEMANDS = ("target_compression", "max_size_mb", "min_speedup", "max_error")
BUDGETS = st.fixed_dictionaries(dict.fromkeys(DEMANDS, AMOUNTS))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(BUDGETS, BUDGETS)
def test_every_demand_is_the_given_one_or_the_recipes(
    own: dict[str, float | None], ours: dict[str, float | None]
) -> None:
    recipe = Recipe(budget={key: value for key, value in own.items() if value is not None})
    together = {key: own[key] if ours[key] is None else ours[key] for key in own}
    assert recipe.demands(**ours) == demands(**together)


REFUSED = {
    "no name": ('name = "mine"', "", "name: Field required"),
    "unknown key": ("batch_size", "batchsize", "batchsize: Extra inputs"),
    "unknown format key": ("bits = [8, 4]", "widths = [8]", "formats.widths: Extra inputs"),
    "unknown demand": ("target_compression", "compression", "budget.compression: Extra inputs"),
    "width 3": ("[8, 4]", "[8, 3]", "formats.bits.1: Input should be 32, 16, 8, 4 or 2, got 3"),
    "no widths": ("[8, 4]", "[]", "formats.bits: "),
    "one width bare": ("[8, 4]", "8", "formats.bits: "),
    "group of 8": ('[32, "channel"]', "[8]", "formats.group_sizes.0"),
    "group word": ('"channel"', '"row"', "formats.group_sizes.1"),
    "grid": ('"zero-point"', '"ternary"', "formats.grids.0: Input should be 'symmetric'"),
    "method": ('"clip"', '"awq"', "formats.method"),
    "activation": ('"static"', '"int8"', "formats.activations.1: Input should be 'none'"),
    "half": ('"bfloat16"', '"float8"', "formats.half: Input should be 'float16'"),
    "compression of zero": ("compression = 5", "compression = 0", "budget.target_compression: "),
    "negative drop": ("drop = 0", "drop = -1", "budget.max_metric_drop: "),
    "nan": ("drop = 0", "drop = nan", "budget.max_metric_drop: "),
    "infinite": ("compression = 5", "compression = inf", "budget.target_compression: "),
    "text for number": ("compression = 5", 'compression = "5"', "budget.target_compression: "),
    "bool for number": ("samples = 4", "samples = true", "samples: "),
    "fraction": ("threads = 3", "threads = 1.5", "threads: "),
    "zero threads": ("threads = 3", "threads = 0", "threads: "),
    "line break": ('"a test"', '"a\\ntest"', "description: "),
    "list of budgets": ("[budget]", "[[budget]]", "budget: "),
    "twice": ("threads = 3", "threads = 3\nthreads = 3", "not readable as TOML"),
    "truncated": (TEXT[len(TEXT) // 2 :], '"', "not readable as TOML"),
    "deep nesting": (TEXT, "a = " + "[" * 100_000, "not readable as TOML"),
    "endless digits": (TEXT, "a = " + "9" * 10_000, "not readable as TOML"),
    "empty": (TEXT, "", "name: Field required"),
}


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(old: str, new: str, expected: str) -> None:
    assert old in TEXT
    with pytest.raises(UsageError) as caught:
        parse(TEXT.replace(old, new), origin="mine.toml")
    message = str(caught.value)
    assert message.startswith("recipe 'mine.toml': ")
    assert expected in message
    assert message.isprintable()
    assert len(message) < 700


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 40), st.text(string.printable, max_size=6))
def test_damage_never_ends_in_another_error(at: int, length: int, new: str) -> None:
    message = ""
    try:
        parse(TEXT[:at] + new + TEXT[at + length :], origin="damaged")
    except UsageError as error:
        message = str(error)
    assert message.isprintable()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mobile", "did you mean 'mobile_device'?"),
        ("CPU_SERVER", "did you mean 'cpu_server' or"),
        ("zzz", "shipped are cpu_server, edge_device, gpu_server, mobile_device"),
        ("", "shipped are cpu_server"),
        ("no/such.toml", "recipe no/such.toml is not a file"),
        ("no\0thing.toml", "is not a file"),
        ("x" * 5000, "shipped are cpu_server"),
    ],
    ids=["near", "case", "unknown", "empty", "no-file", "nul", "long"],
)
def test_unknown_names(wrong: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(wrong)
    message = str(caught.value)
    assert said in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "not UTF-8"), (b"#" * (MAX_BYTES + 1), "larger than 65,536 bytes")],
    ids=["bytes", "large"],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        load(path)
    with pytest.raises(UsageError, match="not a file"):
        load(f"{tmp_path}/")


def test_a_file_of_ones_own_finds_its_hardware_beside_it(tmp_path: Path) -> None:
    chip = FOLDER.parents[1] / "profiles" / "arm_mobile.toml"
    (tmp_path / "chip.toml").write_bytes(chip.read_bytes())
    path = tmp_path / "mine.toml"
    for hardware in ("chip.toml", str(tmp_path / "chip.toml")):
        path.write_text(f'name = "mine"\nhardware = "{hardware}"\n', encoding="utf-8")
        assert load(path).profile() == load_profile("arm_mobile")


def test_hardware_is_missing_or_unknown() -> None:
    with pytest.raises(UsageError, match=r"--hardware is missing; name a chip .* or a --recipe"):
        Recipe().profile()
    wrong: dict[str, Any] = {"name": "mine", "hardware": "intel"}
    with pytest.raises(ProfileError, match=r"recipe 'mine': hardware 'intel' is not .*intel_cpu"):
        Recipe(**wrong).profile()


def test_the_example_of_the_documentation_is_a_recipe() -> None:
    text = (FOLDER.parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("```toml\n")
    recipe = parse(rest.partition("```")[0], origin="docs/recipes.md")
    assert set(recipe.formats) == set(Palette.__dataclass_fields__)
    assert set(recipe.budget) == set(demands.__annotations__) - {"return"}
