"""Files that take over from others: what they take over, and whose errors are whose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import networkx as nx
import pytest

from mixq.cost.build import build_cost_table
from mixq.cost.machine import Machine
from mixq.errors import ProfileError
from mixq.graph.model_graph import ModelGraph
from mixq.profiles import available, load, loader
from mixq.profiles.document import INHERITED_SPREAD

REAL = Path(__file__).parents[2] / "profiles"
BASE = (REAL / "intel_cpu.toml").read_text(encoding="utf-8")
FITTED = """
[runtime.lab]
title = "oneDNN 3"
description = "kernels of published tables"

[[runtime.lab.kernel]]
name = "gemm"
ops = ["gemm"]
bits = 4.5
compute = "int8"
compute_efficiency = { value = 0.5, unit = "1", source = "fitted" }
memory_efficiency = { value = 0.5, unit = "1", source = "fitted" }
overhead = { value = 5, unit = "us", source = "fitted" }
spread = { value = 0.2, unit = "1", source = "fitted" }
points = 12
"""


def child(name: str, base: str, more: str = "") -> str:
    return (
        f'schema_version = 2\nname = "{name}"\nextends = "{base}"\ndescription = "a child"\n{more}'
    )


Write = Callable[[str, str], None]


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes files into a folder that stands for the shipped profiles."""
    caches = (loader.available, loader._shipped, loader._shipped_layers)

    def forget() -> None:
        for cached in caches:
            cached.cache_clear()

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        forget()

    monkeypatch.setattr(loader, "_shipped_files", lambda: tmp_path)
    write("base", BASE.replace('"intel_cpu"', '"base"'))
    yield write
    forget()


def test_a_child_gives_what_differs(ship: Write) -> None:
    clock = 'clock = { value = 2.6, unit = "GHz", source = "s" }\n'
    ship("child", child("child", "base", f"[chip]\n{clock}"))
    base, found = load("base"), load("child")
    assert base.caches[0].core_bytes_per_s == 32 * 2.3e9
    assert (found.name, found.description, found.cores) == ("child", "a child", base.cores)
    assert found.core_ops_per_s["fp32"] == 64 * 2.6e9
    assert found.caches[0].core_bytes_per_s == 32 * 2.6e9
    assert found.chips == ()
    assert {kernel.origin for kernel in found.runtime().kernels} == {"base"}
    assert found.fingerprint != base.fingerprint


def test_caches_and_rates_are_taken_over_whole_or_not_at_all(ship: Write) -> None:
    more = (
        '[[chip.cache]]\nname = "L2"\nsize = { value = 2, unit = "MB", source = "s" }\n'
        'core_bandwidth = { value = 20, unit = "GB/s", source = "s" }\n[chip.core_peak]\n'
        'fp32 = { value = 9, unit = "Gop/s", source = "s" }\n'
    )
    ship(
        "child",
        child("child", "base", more + 'int8 = { value = 9, unit = "Gop/s", source = "s" }'),
    )
    assert [level.name for level in load("child").caches] == ["L2"]
    assert load("child").core_ops_per_s == {"fp32": 9e9, "int8": 9e9}
    ship("child", child("child", "base", more))
    # The base's own kernels compute in int8: a chip without it has to say what they do there.
    with pytest.raises(
        ProfileError, match=r"profile 'base': line .* chip\.core_peak does not give"
    ):
        load("child")


def test_a_kernel_takes_the_place_of_its_namesake(ship: Write) -> None:
    kernel = BASE[BASE.index('[[runtime.onnxruntime.kernel]]\nname = "MatMulNBits 2-bit"') :]
    kernel = kernel[: kernel.index("\n\n")].replace("value = 0.28", "value = 0.11")
    ship("child", child("child", "base", kernel))
    names = [kernel.name for kernel in load("base").runtime().kernels]
    found = load("child").runtime()
    assert [kernel.name for kernel in found.kernels] == names
    (own,) = (kernel for kernel in found.kernels if kernel.origin == "child")
    assert (own.name, own.compute_efficiency) == ("MatMulNBits 2-bit", 0.11)


def test_a_kernel_twice_in_one_file_does_not_replace_itself(ship: Write) -> None:
    kernel = BASE[BASE.index('[[runtime.onnxruntime.kernel]]\nname = "MatMulNBits 2-bit"') :]
    kernel = kernel[: kernel.index("\n\n") + 2]
    ship("child", child("child", "base", kernel + kernel))
    with pytest.raises(ProfileError, match=r"'child': line 1\d: .* two kernels of one name"):
        load("child")


def test_fitted_kernels_join_their_profile_and_widen_on_its_children(ship: Write) -> None:
    before = load("base").fingerprint
    ship("fitted/base", FITTED)
    ship("child", child("child", "base"))
    base, found = load("base"), load("child")
    assert set(base.runtimes) == {"lab", "onnxruntime"}
    assert base.searchable == ("onnxruntime",)
    assert base.fingerprint == before
    (kernel,) = base.runtimes["lab"].kernels
    (inherited,) = found.runtimes["lab"].kernels
    assert (kernel.spread, kernel.points, kernel.origin) == (0.2, 12, "base")
    assert inherited.spread == math.hypot(0.2, INHERITED_SPREAD)
    assert (inherited.points, inherited.origin) == (12, "base")


def test_fitted_kernels_of_a_child_replace_those_that_it_inherits(ship: Write) -> None:
    ship("fitted/base", FITTED)
    ship("published/child", child("child", "base"))
    ship("fitted/child", FITTED.replace("points = 12", "points = 7"))
    (kernel,) = load("child").runtimes["lab"].kernels
    assert (kernel.spread, kernel.points, kernel.origin) == (0.2, 7, "child")


def test_measured_kernels_of_rates_that_a_child_lacks_stay_behind(ship: Write) -> None:
    with_int4 = BASE.replace(
        "[chip.core_peak]\n",
        '[chip.core_peak]\nint4 = { value = 9, unit = "Gop/s", source = "s" }\n',
    )
    ship("base", with_int4.replace('"intel_cpu"', '"base"'))
    ship("fitted/base", FITTED.replace('compute = "int8"', 'compute = "int4"'))
    assert set(load("base").runtimes) == {"lab", "onnxruntime"}
    peaks = BASE[BASE.index("[chip.core_peak]") : BASE.index("[runtime.onnxruntime]")]
    ship("child", child("child", "base", peaks))
    assert set(load("child").runtimes) == {"onnxruntime"}


def test_an_error_names_the_file_that_it_stands_in(ship: Write) -> None:
    ship("fitted/base", FITTED.replace("value = 0.2", "value = -0.2"))
    expected = (
        r"profile 'fitted/base': line 14: runtime.lab.kernel number 1 \('gemm'\) spread.value: "
    )
    with pytest.raises(ProfileError, match=expected):
        load("base")
    ship("fitted/base", FITTED)
    ship("child", child("child", "base", "[chip]\ncores = 3\n"))
    with pytest.raises(ProfileError, match=r"profile 'child': line 6: chip\.cores: "):
        load("child")


def test_a_circle_is_refused(ship: Write) -> None:
    ship("one", child("one", "two"))
    ship("two", child("two", "one"))
    with pytest.raises(ProfileError, match="line 3: extends: one -> two -> one goes round"):
        load("one")
    ship("self", child("self", "self"))
    with pytest.raises(ProfileError, match="self -> self goes round"):
        load("self")


def test_a_long_chain_is_refused(ship: Write) -> None:
    ship("c0", child("c0", "base"))
    for number in range(1, 20):
        ship(f"c{number}", child(f"c{number}", f"c{number - 1}"))
    assert load("c3").cores == 40
    with pytest.raises(ProfileError, match="too long"):
        load("c19")


def test_a_users_file_extends_a_shipped_one_or_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(child("mine", "intel_amx"), encoding="utf-8")
    (tmp_path / "b.toml").write_text(child("yours", "a.toml"), encoding="utf-8")
    mine, yours = load(str(tmp_path / "a.toml")), load(str(tmp_path / "b.toml"))
    assert mine.runtime() == load("intel_amx").runtime()
    assert (yours.name, yours.cores) == ("yours", 56)
    (tmp_path / "a.toml").write_text(child("mine", "intel_amx", "x = 1"), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"a\.toml': line 5: x: unknown key"):
        load(str(tmp_path / "b.toml"))
    for wrong in ("runtime = 3", "runtime.onnxruntime.kernel = 3", "chip = 3"):
        (tmp_path / "a.toml").write_text(child("mine", "intel_amx", wrong), encoding="utf-8")
        with pytest.raises(ProfileError, match=r"a\.toml': line 5: "):
            load(str(tmp_path / "b.toml"))
    (tmp_path / "a.toml").write_text(child("mine", "b.toml"), encoding="utf-8")
    with pytest.raises(ProfileError, match="goes round in a circle"):
        load(str(tmp_path / "b.toml"))
    (tmp_path / "b.toml").write_text(child("yours", "none.toml"), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"none\.toml': cannot be read"):
        load(str(tmp_path / "b.toml"))


@pytest.mark.parametrize("base", ["/etc/passwd", "/a.toml", "../a.toml", "x/../../a.toml", "x/a"])
def test_no_file_from_elsewhere_is_read(tmp_path: Path, base: str) -> None:
    (tmp_path / "b.toml").write_text(child("yours", base), encoding="utf-8")
    with pytest.raises(
        ProfileError, match=r"line 3: extends: .* is no \.toml file beside this one"
    ):
        load(str(tmp_path / "b.toml"))


@pytest.mark.parametrize(
    "more",
    ["chip = 3", "runtime = 3", "runtime.onnxruntime = 3", "runtime.onnxruntime.kernel = 3",
     "runtime.onnxruntime.kernel = [3]", "chip.core_peak = 3", "chip.cache = [3]",
     "[[chip]]", "[[runtime]]", "runtime.lab = {}", "runtime.onnxruntime.dequantize = 3"],
)  # fmt: skip
def test_a_child_of_the_wrong_kind_is_refused_in_one_line(tmp_path: Path, more: str) -> None:
    (tmp_path / "a.toml").write_text(child("mine", "intel_cpu", more), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"a\.toml': line [45]: (?:chip|runtime)"):
        load(str(tmp_path / "a.toml"))


def test_measured_runtimes_are_predicted_and_not_searched(ship: Write) -> None:
    ship("fitted/base", FITTED)
    base = load("base")
    empty = ModelGraph(nx.DiGraph(), {}, 0, 0, 0, 0, 1, "dispatch")
    assert Machine.of(base, "lab").runtime.title == "oneDNN 3"
    assert base.searched_runtime().name == "onnxruntime"
    refusal = (
        "runtime 'lab' of profile 'base' lists measured kernels alone: .* "
        "choose one of onnxruntime"
    )
    with pytest.raises(ProfileError, match=refusal):
        base.searched_runtime("lab")
    with pytest.raises(ProfileError, match=refusal):
        build_cost_table(empty, {}, base, runtime="lab")
    ship("base", BASE.replace('"intel_cpu"', '"base"').replace(
        'default_runtime = "onnxruntime"', 'default_runtime = "lab"'))  # fmt: skip
    with pytest.raises(ProfileError, match="default_runtime: runtime 'lab' has no dequantize"):
        load("base")


def test_names_of_the_shipped_folder_are_no_surprise() -> None:
    assert len(available()) == 12
    assert not {"fitted", "published"} & set(available(published=True))
