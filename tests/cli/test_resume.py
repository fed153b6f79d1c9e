"""`mixq search --resume`: what is not given comes from the folder, nothing is measured twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mixq.sensitivity.store as store_module
from mixq.plan import Plan
from mixq.sensitivity.metrics.metric import Tensors
from mixq.sensitivity.reference import Reference

FIRST = ("--target-compression", "3", "--tie", "[24].weight", "--seed", "3", "--bits", "32,8,4,2")


def request(folder: str = "run") -> dict[str, Any]:
    run: dict[str, Any] = json.loads(Path(folder, "run.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = run["request"]
    return found


def stored(folder: str) -> Counter[str]:
    """Every line of every store of measurements, the audit's too."""
    files = [*Path(folder).glob("measurements-*.jsonl"), *Path(folder).glob("audit-*.jsonl")]
    return Counter(
        f"{file.name} {line}"
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
    )


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    original = Reference.compared

    def counted(reference: Reference, index: int, outputs: Tensors, what: str) -> list[float]:
        names.append(what)
        return original(reference, index, outputs, what)

    monkeypatch.setattr(Reference, "compared", counted)
    return names


def test_the_request_is_kept_as_it_was_given(search: Callable[..., Any]) -> None:
    assert search(*FIRST).status == 0
    assert request() == {
        "hardware": "intel_cpu", "model": "tiny.py:load", "trials": 2, "target_compression": 3.0,
        "tie": ["[24].weight"], "seed": 3, "bits": "32,8,4,2",
    }  # fmt: skip


def test_the_same_again_measures_nothing_and_gives_the_same(
    search: Callable[..., Any], cli: Callable[..., Any], compared: list[str]
) -> None:
    assert search(*FIRST).status == 0
    plan = Path("run/plan.json").read_bytes()
    compared.clear()
    answer = cli("search", "--resume", "--output", "run")
    assert answer.status == 0, answer.err
    assert [what for what in compared if not what.startswith("rounded ")] == []
    assert Path("run/plan.json").read_bytes() == plan
    said = "note: taken from the run in the folder:"
    assert f"{said} --hardware intel_cpu --model tiny.py:load" in answer.err
    assert "--target-compression 3.0" in answer.err


@pytest.mark.parametrize("sensitivity", ["auto", "measured"])
def test_a_pin_measures_no_sensitivity_again(
    search: Callable[..., Any], cli: Callable[..., Any], compared: list[str], sensitivity: str
) -> None:
    # Without rounds: changes around another plan are other measurements.
    assert search(*FIRST, "--sensitivity", sensitivity, "--rounds", "0").status == 0
    first, before = Plan.load("run/plan.json"), stored("run")
    compared.clear()
    answer = cli("search", "--resume", "--output", "run", "--pin", "0.*=8")
    assert answer.status == 0, answer.err
    second, after = Plan.load("run/plan.json"), stored("run")
    # What was measured stands where it stood, and nothing stands there twice.
    assert before <= after
    assert set(after.values()) == {1}
    if sensitivity == "measured":
        whole = r"uniform \d|optimum.*|w\d\S* everywhere|rounded .*|.* alone"
        assert [what for what in compared if not re.fullmatch(whole, what)] == []
    # It differs as it should: by the pin, and by what the pin leaves for the others.
    assert second.layers["0.weight"].bits == 8
    assert second.budget == first.budget
    assert second.seed == first.seed
    assert second.layers["2.weight"].format == second.layers["4.weight"].format
    assert (second.model, second.hardware, second.workload) == (
        first.model, first.hardware, first.workload
    )  # fmt: skip


def test_a_pin_gives_the_plan_of_a_fresh_search_with_it(
    search: Callable[..., Any], cli: Callable[..., Any]
) -> None:
    assert search(*FIRST).status == 0
    assert cli("search", "--resume", "--output", "run", "--pin", "0.*=8").status == 0
    assert search(*FIRST, "--pin", "0.*=8", output="fresh").status == 0
    assert Path("run/plan.json").read_bytes() == Path("fresh/plan.json").read_bytes()


PINS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "added": (["0.*=8"], ["2.*=4"], ["0.*=8", "2.*=4"]),
    "replaced": (["0.*=8", "2.*=4"], ["0.*=32"], ["2.*=4", "0.*=32"]),
    "kept": (["0.*=8"], [], ["0.*=8"]),
    "new": ([], ["0.*=8"], ["0.*=8"]),
}


@pytest.mark.parametrize(("earlier", "given", "expected"), PINS.values(), ids=PINS)
def test_pins_are_added_by_pattern(
    search: Callable[..., Any], cli: Callable[..., Any],
    earlier: list[str], given: list[str], expected: list[str],
) -> None:  # fmt: skip
    def options(pins: list[str]) -> list[str]:
        return [part for pin in pins for part in ("--pin", pin)]

    assert search("--target-compression", "1.5", *options(earlier)).status == 0
    assert cli("search", *options(given), "--resume", "--output", "run").status == 0
    assert request()["pin"] == expected


def test_what_is_given_anew_goes_before_the_folder(
    search: Callable[..., Any], cli: Callable[..., Any]
) -> None:
    assert search(*FIRST).status == 0
    # Before and behind the folder, in whatever order.
    command = (
        "search",
        "--target-compression",
        "4",
        "--output",
        "run",
        "--resume",
        "--trials",
        "1",
    )
    assert cli(*command).status == 0
    assert request() == {
        "hardware": "intel_cpu", "model": "tiny.py:load", "trials": 1, "target_compression": 4.0,
        "tie": ["[24].weight"], "seed": 3, "bits": "32,8,4,2",
    }  # fmt: skip
    assert Plan.load("run/plan.json").budget == {"compression": 4.0}


def test_an_interrupted_search_can_be_taken_up(
    search: Callable[..., Any], cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, count = store_module.Store.put, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        put(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store_module.Store, "put", interrupted)
        assert search(*FIRST).status == 130
    assert request()["target_compression"] == 3.0
    assert cli("search", "--resume", "--output", "run").status == 0
    assert search(*FIRST, output="fresh").status == 0
    assert Path("run/plan.json").read_bytes() == Path("fresh/plan.json").read_bytes()


def test_a_refused_wish_leaves_the_finished_run_as_it_was(
    search: Callable[..., Any], cli: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    assert search(*FIRST).status == 0
    before = contents(Path("run"))
    assert cli("search", "--resume", "--output", "run", "--max-size-mb", "1e-5").status == 3
    assert contents(Path("run")) == before


def test_nothing_to_take_up(search: Callable[..., Any], cli: Callable[..., Any]) -> None:
    answer = cli("search", "--resume", "--target-compression", "4", "--output", "nowhere")
    assert answer.status == 1
    assert "folder nowhere holds no run to go on from" in answer.error
    assert not Path("nowhere").exists()
    assert cli("analyze", "--model", "tiny.py:load", "--output", "run").status == 0
    answer = cli("search", "--resume", "--output", "run")
    assert answer.status == 1
    assert "does not say what the search was asked" in answer.error


DAMAGE: dict[str, dict[str, Any]] = {
    "unknown-option": {"nonsense": 1},
    "own-option": {"output": "elsewhere"},
    "list-for-number": {"target_compression": [1.0]},
    "number-for-list": {"pin": 8},
    "number-for-flag": {"sequential": 1},
    "flag-for-number": {"seed": True},
    "null": {"seed": None},
    "mixed-list": {"pin": ["0.*=8", 3]},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_requests_are_refused_in_one_line(
    cli: Callable[..., Any], damage: dict[str, Any]
) -> None:
    Path("run").mkdir()
    run = {"request": {"model": "tiny.py:load", **damage}}
    Path("run/run.json").write_text(json.dumps(run), encoding="utf-8")
    answer = cli("search", "--resume", "--output", "run")
    assert answer.status == 1
    assert f"asks for {next(iter(damage))} = " in answer.error


def test_a_value_that_no_option_takes_is_wrong_usage(cli: Callable[..., Any]) -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text('{"request": {"seed": "x"}}', encoding="utf-8")
    answer = cli("search", "--resume", "--output", "run")
    assert answer.status == 2
    assert "--seed" in answer.error


def test_a_search_by_the_library_forgets_what_the_command_was_asked(
    search: Callable[..., Any], cli: Callable[..., Any]
) -> None:
    """Its options are Python's; the folder's plan is no longer the command's."""
    import mixq
    from mixq.sources import load_calibration, load_model

    assert search(*FIRST).status == 0
    loaded = load_model("tiny.py:load")
    data = load_calibration(None, loaded)
    result = mixq.search(
        loaded.model, data, hardware="intel_cpu", target_compression=2, trials=1, folder="run"
    )
    from mixq.report.folder import write_results
    from mixq.search.folder import run_folder

    with run_folder("run", {"model": result.plan.model.fingerprint}) as folder:
        write_results(result, folder)
    answer = cli("search", "--resume", "--output", "run")
    assert answer.status == 1
    assert "the library" in answer.error
