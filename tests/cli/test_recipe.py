"""`mixq search --recipe`: the shipped ones on the demo, a user's own, and the final check."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixq.plan import Plan
from mixq.search.recipe import available, load

Cli = Callable[..., Any]

MINE = """
name = "mine"
hardware = "arm_mobile"
[formats]
bits = [8, 4]
group_sizes = [32]
method = "rtn"
[budget]
target_compression = 4
"""


@pytest.fixture
def tiny(cli: Cli) -> Cli:
    """A quick search of the tiny model, without hardware or demands."""
    Path("mine.toml").write_text(MINE, encoding="utf-8")

    def invoke(*arguments: object) -> Any:
        own = () if "--model" in arguments else ("--model", "tiny.py:load")
        return cli("search", *own, "--output", "run", "--trials", "1", *arguments)

    return invoke


@pytest.mark.parametrize("name", available())
def test_every_shipped_recipe_runs_alone(cli: Cli, name: str) -> None:
    """On the demo, with nothing else said that changes what is found but fewer measurements."""
    quick = ("--samples", "24", "--trials", "1", "--one-shot")
    answer = cli("search", "--recipe", name, *quick, "--format", "json")
    assert answer.status == 0, answer.err
    recipe, plan = load(name), Plan.load("mixq-run/plan.json")
    assert plan.hardware.name == recipe.hardware
    assert plan.workload.batch_size == (recipe.batch_size or 1)
    assert plan.predicted.compression >= recipe.budget["target_compression"]
    assert {layer.bits for layer in plan.layers.values()} <= set(recipe.formats["bits"])
    check = answer.json["check"]
    assert check["passed"] is True
    assert check["functional"]["output_mse"] == pytest.approx(plan.measured.heldout_output_mse)
    assert check["functional"]["stored_bytes"] == plan.predicted.weight_bytes
    if name == "cpu_server":
        assert {"dynamic", "static"} & {layer.activation for layer in plan.layers.values()}
        assert plan.predicted.latency_s <= plan.predicted.baseline_latency_s


def test_a_file_of_ones_own_and_what_the_check_prints(tiny: Cli) -> None:
    answer = tiny("--recipe", "mine.toml")
    assert answer.status == 0, answer.err
    plan = Plan.load("run/plan.json")
    assert plan.hardware.name == "arm_mobile"
    assert {layer.format.name for layer in plan.layers.values()} <= {"w8g32", "w4g32-zp"}
    printed = re.findall(r"^check: (.*)$", answer.out, re.MULTILINE)
    assert len(printed) == 4
    assert re.fullmatch(
        r"the packed model runs on 3 held-out samples with output error \S+, as measured, "
        r"from [\d,]+ bytes, as predicted",
        printed[0],
    )
    assert printed[1].startswith("compression 4 demanded, ")
    assert re.match(r"\S+ ms predicted on arm_mobile, \S+x as fast as 32 bits, ", printed[2])
    assert re.search(r"slower than in 32 bits", printed[3])
    assert "Written to run: plan.json" in answer.out


def test_options_go_before_the_recipe(tiny: Cli) -> None:
    given = ("--hardware", "intel_cpu", "--target-compression", "3", "--bits", "32,8")
    answer = tiny("--recipe", "mine.toml", *given, "--batch-size", "5", "--threads", "2")
    assert answer.status == 0, answer.err
    plan = Plan.load("run/plan.json")
    assert (plan.hardware.name, plan.hardware.threads) == ("intel_cpu", 2)
    assert plan.workload.batch_size == 5
    assert plan.budget == {"compression": 3}
    assert {layer.format.name for layer in plan.layers.values()} <= {"w32", "w8g32"}


def test_a_demand_besides_joins_the_recipes(tiny: Cli) -> None:
    answer = tiny("--recipe", "mine.toml", "--max-error", "10")
    assert answer.status == 0, answer.err
    assert Plan.load("run/plan.json").budget == {"compression": 4, "max_error": 10}


ALONE = ("--hardware", "arm_mobile", "--target-compression", "4")


@pytest.mark.parametrize(
    ("arguments", "checks"),
    [
        (ALONE, False),
        ((*ALONE, "--check"), True),
        (("--recipe", "mine.toml"), True),
        (("--recipe", "mine.toml", "--no-check"), False),
    ],
    ids=["plain", "asked for", "recipe", "left out"],
)
def test_the_check_runs_with_a_recipe_or_if_asked_for(
    tiny: Cli, arguments: tuple[str, ...], checks: bool
) -> None:
    answer = tiny(*arguments, "--format", "json")
    assert answer.status == 0, answer.err
    assert ("check" in answer.json) is checks


def test_a_failed_check_is_one_line_and_no_plan(
    tiny: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "apply", lambda plan, model: model)
    answer = tiny("--recipe", "mine.toml")
    assert answer.status == 1
    assert "error: the final check failed: the packed model has output error 0 on" in answer.error
    assert answer.out == ""
    assert not Path("run/plan.json").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--recipe", "phone"), 2, "shipped are cpu_server, edge_device, gpu_server"),
        (("--recipe", "mobile-device"), 2, "did you mean 'mobile_device' or"),
        (("--recipe", "none.toml"), 2, "recipe none.toml is not a file"),
        (("--recipe", "tiny.py"), 2, "is not a shipped one and not a .toml file"),
        (("--recipe", "wrong.toml"), 2, "formats.bits.0: Input should be 32, 16, 8, 4 or 2"),
        (("--recipe", "nochip.toml"), 2, "--hardware is missing; name a chip"),
        (("--recipe", "badchip.toml"), 1, "recipe 'x': hardware 'abacus' is not a shipped"),
        (("--recipe", "nobudget.toml"), 2, "no demand is given"),
        (("--recipe", "mine.toml", "--bits", "3"), 2, "--bits asks for 3 bits"),
        (("--recipe", "mine.toml", "--target-compression", "90"), 3, "cannot be met"),
        ((), 2, "no demand is given"),
        (("--target-compression", "4"), 2, "--hardware is missing"),
    ],
    ids=[
        "unknown", "near", "no file", "no toml", "broken", "no hardware", "bad hardware",
        "no budget", "wrong option", "infeasible", "nothing", "no recipe no hardware",
    ],
)  # fmt: skip
def test_refusals(tiny: Cli, arguments: tuple[str, ...], status: int, said: str) -> None:
    for name, text in {
        "wrong": 'name = "x"\n[formats]\nbits = [3]',
        "nochip": 'name = "x"\n[budget]\nmin_speedup = 1',
        "badchip": 'name = "x"\nhardware = "abacus"\n[budget]\nmin_speedup = 1',
        "nobudget": 'name = "x"\nhardware = "arm_mobile"',
    }.items():
        Path(f"{name}.toml").write_text(text, encoding="utf-8")
    answer = tiny(*arguments)
    assert answer.status == status
    assert said in answer.error


def test_help_names_the_recipes_and_the_defaults(cli: Cli) -> None:
    text = " ".join(re.sub(r"[^\w,.:\-\[\] ]", " ", cli("search", "--help").out).split())
    for name in available():
        assert name in text
    for words in ("Default: 32,8,4,2.", "Default: 32,64,128.", "Default: auto.", "Default: 1."):
        assert words in text
