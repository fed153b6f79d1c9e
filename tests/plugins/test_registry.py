"""Packages from outside mixq: found by name, imported when asked for, refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mixq
from mixq import formats
from mixq.errors import FormatError, MixqError, PlanError, PluginError, UsageError
from mixq.export import registry
from mixq.formats import METHODS, Format
from mixq.plan import Plan
from mixq.plugins import Plugins
from mixq.quantize.rounding import round_weights
from tests.plans import plan_for

FMT = "w4g64-zp-descent"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Writes a package with one module and one entry point, importable as if installed."""

    def write(group: str, name: str, code: str, package: str = "acme") -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}_plugin:Thing\n")
        (folder / f"{package}_plugin.py").write_text(code)
        monkeypatch.syspath_prepend(str(folder))

    yield write
    for name in [name for name in sys.modules if name.endswith("_plugin")]:
        del sys.modules[name]


def mixq_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from mixq.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_a_search_and_an_export_use_them(tmp_path: Path) -> None:
    """From the command line, in processes of their own, as a user would."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef load():\n    torch.manual_seed(0)\n"
        "    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), "
        "nn.Linear(64, 8))\n    return net, torch.randn(256, 64), None\n".replace(", None", "")
    )
    made = mixq_command(
        *("search", "--model", "net.py:load", "--calibration", "net.py:load"),
        *("--hardware", "intel_cpu", "--target-compression", "6", "--method", "descent"),
        *("--bits", "32,8,4", "--output", "run", "--one-shot"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    methods = {layer.method for layer in Plan.load(tmp_path / "run/plan.json").layers.values()}
    assert "descent" in methods
    written = mixq_command(
        *("export", "run/plan.json", "--model", "net.py:load", "--runtime", "npz"),
        *("--output", "model.npz", "--format", "json"),
        cwd=tmp_path,
    )
    assert written.returncode == 0, written.stderr
    assert json.loads(written.stdout)["difference"] < 1e-3


class TestWithoutThePackage:
    """What needs it is refused in one line that names it; the rest works."""

    @pytest.fixture(autouse=True)
    def absent(self, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(installed)])

    def test_formats_name_the_method_that_is_missing(self) -> None:
        with pytest.raises(FormatError, match=r"method is 'descent'.* install it") as refused:
            Format.parse(FMT)
        assert str(refused.value).isprintable()

    def test_plans_name_the_layer(self, tmp_path: Path) -> None:
        plan = plan_for(nn.Linear(64, 8), Format.parse("w4g64-zp")).to_json()
        plan["layers"]["weight"]["method"] = "descent"  # type: ignore[index]
        with pytest.raises(PlanError, match=r"layers.weight.*'descent'.* install it") as refused:
            Plan.from_json(json.dumps(plan))
        assert str(refused.value).isprintable()

    def test_runtimes_are_unknown(self) -> None:
        with pytest.raises(UsageError, match=r"'npz' is unknown; .* install the package"):
            registry.runtime("npz")


def test_plans_with_a_method_from_outside_round_trip() -> None:
    fmt = Format.parse(FMT)
    assert fmt.name == FMT
    assert fmt.needs_codes
    plan = plan_for(nn.Linear(64, 8), fmt)
    again = Plan.from_json(json.dumps(plan.to_json()))
    assert again.layers["weight"].format == fmt


def test_names_alone_import_nothing() -> None:
    """Not even where help, plans and lists of names are asked for."""
    assert "descent" in METHODS
    assert "npz" in registry.PLUGINS.names()
    assert registry.PLUGINS.origin("npz") == "mixq-npz 0.1"
    assert not {"mixq_descent", "mixq_npz"} & set(sys.modules)
    code = (
        "import sys; sys.argv = ['mixq', 'export', '--help']\n"
        "from mixq.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'mixq_npz', 'mixq_descent'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0


BROKEN = {
    "no-import": ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
    "raises": ("raise RuntimeError('one\\ntwo')", r"RuntimeError: one\\ntwo"),
    "no-thing": ("", "AttributeError: "),
    "no-syntax": ("def", "SyntaxError: "),
    "no-class": ("Thing = 3", "is int, but it must be a class"),
    "no-name": ("class Thing: ...", "has the name None in its class"),
    "no-write": (
        "class Thing:\n    name, extra, suffix, is_folder = 'thing', '', '.x', False\n"
        "    def check(self, source): ...\n",
        "has no method write",
    ),
}


@pytest.mark.parametrize(("code", "words"), BROKEN.values(), ids=BROKEN)
def test_a_runtime_that_fails_names_its_package(package: object, code: str, words: str) -> None:
    package("mixq.runtimes", "thing", code)  # type: ignore[operator]
    with pytest.raises(PluginError, match=words) as refused:
        registry.runtime("thing")
    assert "acme 1.2" in str(refused.value)
    assert str(refused.value).isprintable()


ROUND = "class Thing:\n    needs = 'nothing'\n    def round(weight, fmt, inputs):\n        "
CODES = (
    "import torch; from mixq.quantize.codes import Codes, Steps; r, c = weight.shape; "
    "make = lambda low, scale, dtype=torch.uint8: Codes(torch.full((r, c), low, dtype=dtype), "
    "Steps(torch.full((r, 1), scale, dtype=torch.float16)));"
)
WRONG = {
    "no-method": ("Thing = 3", "is no rounding method"),
    "raises": (ROUND + "raise IndexError('x')", "fails on 2 x 20 weights: IndexError: x"),
    "not-codes": (ROUND + "return weight", "fails on 2 x 20 weights: "),
    "dtype": (ROUND + CODES + "return make(3, 1.0, torch.int64)", "codes that are torch.int64"),
    "range": (ROUND + CODES + "return make(16, 1.0)", r"codes in 16..16 beyond 1..15"),
    "infinite": (ROUND + CODES + "return make(3, float('inf'))", "scales that are not finite"),
    "negative": (ROUND + CODES + "return make(3, -1.0)", "scales that are not positive"),
}


@pytest.mark.parametrize(("code", "words"), WRONG.values(), ids=WRONG)
def test_a_rounding_that_fails_names_its_package(package: object, code: str, words: str) -> None:
    package("mixq.roundings", "thing", code)  # type: ignore[operator]
    with pytest.raises(PluginError, match=words) as refused:
        round_weights(torch.ones(2, 20), Format.parse("w4-thing"))
    assert "acme 1.2" in str(refused.value)
    assert str(refused.value).isprintable()


def test_two_packages_of_one_name_are_both_named(package: object) -> None:
    for name in ("acme", "bolt"):
        package("mixq.runtimes", "thing", "", name)  # type: ignore[operator]
    with pytest.raises(PluginError, match=r"claimed by (acme|bolt) 1.2 and (acme|bolt) 1.2"):
        registry.runtime("thing")


@pytest.mark.parametrize("name", ["Thing", "a b", "auto", "x" * 99, "-x"])
def test_names_follow_a_rule(package: object, name: str) -> None:
    package("mixq.runtimes", name, "")  # type: ignore[operator]
    assert name not in registry.PLUGINS.names()
    with pytest.raises(PluginError, match=r"of package acme 1.2 cannot be called that: a name"):
        registry.runtime(name)
    with pytest.raises(UsageError, match="a name has up to 32"):
        registry.PLUGINS.register(name, object)


@pytest.mark.parametrize("name", ["gptq", "bc", "zp", "dynamic", "none", "w-4", "affine"])
def test_methods_are_no_words_of_formats(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        METHODS.register(name, object())


def test_mixqs_own_cannot_be_replaced(package: object) -> None:
    package("mixq.runtimes", "torch", "raise SystemExit")  # type: ignore[operator]
    assert type(registry.runtime("torch")).__module__ == "mixq.export.torch_artifact"
    assert registry.PLUGINS.names().count("torch") == 1


def test_a_call_registers_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Plugins("mixq.nothing", "toy", {}, pattern="[a-z]+")
    monkeypatch.setattr(formats, "METHODS", known)
    known.register("mine", 3)
    assert known.load("mine") == 3
    assert known.names() == ("mine",)
    assert known.origin("mine") == "registered by a call"


def test_another_version_rounds_anew(package: object) -> None:
    """Rounded weights are kept under the version of the package that made them."""
    assert METHODS.origin("descent") == "mixq-descent 0.1"
    assert METHODS.origin("gptq") == ""


def test_streaming_takes_methods_that_need_nothing() -> None:
    from mixq.search.palette import Palette
    from mixq.search.streamed import check_streamed

    with pytest.raises(UsageError, match="--method descent rounds for the inputs of layers"):
        check_streamed(Palette((8, 4), method="descent"), "none")


def test_errors_are_mixqs() -> None:
    assert issubclass(mixq.errors.PluginError, MixqError)
