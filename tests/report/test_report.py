"""The report: what its text says, refuses and survives; browsers are in test_browser.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from mixq.errors import PlanError
from mixq.plan import Plan
from mixq.report.html.figures import bytes_text, number, percent_up, speed_text, time_text
from mixq.report.html.headline import Headline
from mixq.report.html.heat import ink_on, luminance, mixed
from mixq.report.html.page import embedded, page
from mixq.report.html.provenance import command
from mixq.report.report import write_report
from mixq.report.run import Run

from .pages import Page
from .runs import EVIL, names, write_analyzed, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run", names(12), what="accuracy")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def text_of(folder: Path) -> str:
    """The page without plotly.js, entities as they are read."""
    whole = page(Run.load(folder))
    parts = sorted(whole.split("<script>"), key=len)
    return unescape(whole.replace(parts[-1], "") if len(parts[-1]) > 10**6 else whole)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "6.0x smaller, predicted 1.9x faster than fp32 on intel_cpu at batch 1, accuracy "
            "0.971 → 0.968; certified within 0.0% of the best additive plan.",
        ),
        ({"metric": {}}, "at batch 1, output error 0.01 of the output's power; certified"),
        ({"gap": 0.0301}, "within 3.1% of"),
        ({"latency_s": 2.4e-4}, "predicted 2.0x slower than fp32"),
        ({"latency_s": 1.21e-4}, "predicted as fast as fp32"),
        ({"latency_s": 1.1e-4}, "predicted 1.09x faster than fp32"),
        ({"latency_s": 0.0}, "6.0x smaller, accuracy"),
    ],
    ids=["whole", "no-metric", "gap", "slower", "alike", "hardly", "no-time"],
)  # fmt: skip
def test_the_sentence(made: Path, changes: dict[str, object], sentence: str) -> None:
    plan = Plan.load(made / "plan.json")
    for part in (plan.predicted, plan.measured, plan.certificate):
        for name in changes.keys() & set(type(part).model_fields):
            object.__setattr__(part, name, changes[name])
    assert sentence in Headline.of(plan).sentence


FIGURES: dict[str, tuple[Callable[..., str], object, str]] = {
    "bytes": (bytes_text, 12, "12 B"),
    "kilobytes": (bytes_text, 155_624, "156 kB"),
    "megabytes": (bytes_text, 2_680_888, "2.68 MB"),
    "rounds-up": (bytes_text, 999_600, "1 MB"),
    "seconds": (time_text, 1.234, "1.23 s"),
    "milliseconds": (time_text, 0.00311, "3.11 ms"),
    "microseconds": (time_text, 0.000147, "147 µs"),
    "no-speed-up": (speed_text, 1.01, "as fast as"),
    "faster": (speed_text, 1.9, "1.9x faster than"),
    "slower": (speed_text, 0.5, "2.0x slower than"),
    "no-gap": (percent_up, 0.0, "0.0%"),
    "a-gap-is-never-hidden": (percent_up, 0.00001, "0.1%"),
    "whole-percents": (percent_up, 0.03, "3.0%"),
    "number": (number, 0.0774, "0.0774"),
    "small-number": (number, 0.0000123456, "1.23e-5"),
    "none": (number, None, "-"),
    "zero": (number, 0.0, "0"),
}


@pytest.mark.parametrize(("write", "value", "text"), FIGURES.values(), ids=FIGURES)
def test_figures(write: Callable[..., str], value: object, text: str) -> None:
    assert write(value) == text


@pytest.mark.parametrize("place", [i / 20 for i in range(21)], ids=str)
def test_text_on_the_map_can_be_read(place: float) -> None:
    """Contrast of at least 4.5, as WCAG 2 asks of small text."""
    colour = mixed(place)
    light = luminance(colour)
    ink = luminance("#000000" if ink_on(colour) == "d" else "#ffffff")
    assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) >= 4.5


def test_every_part_is_there(made: Path) -> None:
    text = text_of(made)
    for part in (
        "What each byte buys", "Which width where", "How sensitive each layer is",
        "What each width does to the weights", "Where the time goes", "Predicted against measured",
        "Do errors add up?", "What the plan says of itself", "Where this comes from", "float32",
        "float16", "int8", "int4", "int2", "±", "sha256:m", "sha256:c", "sha256:h", "slower",
        "mixq search --model encoder.layer.0.part0.dense.weight --target-compression 6.0",
    ):  # fmt: skip
        assert part in text, part


def test_slower_layers_are_those_that_take_longer_than_in_32_bits(made: Path) -> None:
    run = Run.load(made)
    assert run.plan is not None
    assert run.prices is not None
    slower = [
        name
        for name, layer in run.plan.layers.items()
        if layer.latency_s > 1.005 * run.prices.units[name]["w32"].latency_s
    ]
    assert 0 < len(slower) < 12
    text = text_of(made)
    assert f"▲ {len(slower)} of 12 layers get slower." in text
    assert text.count('class="slower"') == len(slower)


BENCH = {
    "model": "net", "inputs": "1 x 128", "primary_metric": {"own": "accuracy"},
    "settings": {"threads": 1, "batch_size": 1, "repeat": 30},
    "machine": {"processor": "EPYC <b>", "cores": 2, "load": 0.5},
    "rows": [
        {"name": "fp32", "runtime": "ort", "file_bytes": 10**7, "latency_s": 0.002},
        {"name": "plan.json", "runtime": "ort", "file_bytes": 0, "latency_s": 0.001,
         "ratio": {"wall": {"median": 0.5, "low": 0.4, "high": 0.6},
                   "cpu": {"median": 0.5, "low": 0.4, "high": 0.6}},
         "memory": {"anonymous_bytes": 1000, "peak_bytes": 3_000_000},
         "predicted_latency_s": 0.0012, "predicted_ratio": 0.55,
         "metric": {"own": {"accuracy": 0.9677}}},
        {"name": "uniform 2", "runtime": "ort", "file_bytes": 0, "fault": "no <kernel>"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("place", ["bench.json", "bench/bench.json", "named", "suite"])
def test_a_bench_is_shown_beside_what_was_predicted(run: Path, place: str) -> None:
    stored = Plan.load(run / "plan.json").predicted.file_bytes
    bench = json.loads(json.dumps(BENCH))
    bench["rows"][1]["file_bytes"] = stored
    file = run.parent / "elsewhere.json" if place == "named" else run / place
    if place == "suite":
        file, bench = run / "bench.json", {"benches": [bench], "suite": {}}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(bench))
    text = unescape(page(Run.load(run, file if place == "named" else None)))
    for shown in (
        "In the real runtime",
        "0.50 (0.40-0.60)",
        "0.968",
        "3 MB",
        "no <kernel>",
        "0.83",
    ):
        assert shown in text, shown
    assert "EPYC &lt;b&gt;" in page(Run.load(run, file if place == "named" else None))


@pytest.mark.parametrize("missing", ["costs.json", "histogram.json", "audit.json", "run.json"])
def test_runs_of_earlier_versions_say_what_they_lack(run: Path, missing: str) -> None:
    (run / missing).unlink()
    says = {
        "costs.json": "did not keep what each layer takes in 32 bits",
        "histogram.json": "left no histogram",
        "audit.json": "has no audit",
        "run.json": "not recorded",
    }[missing]
    assert says in text_of(run)


def test_an_analysis_says_how_to_go_on(tmp_path: Path) -> None:
    write_analyzed(tmp_path / "a", names(3))
    text = page(Run.load(tmp_path / "a"))
    assert f"mixq search --output {tmp_path / 'a'} --target-compression 6" in text
    assert "How sensitive each layer is" in text
    assert len(text) < 100_000  # without plotly.js, which has nothing to draw
    (tmp_path / "a" / "run.json").write_text('{"state": "running"}')
    assert "mixq search --resume" in page(Run.load(tmp_path / "a"))


BROKEN = {
    "no-frontier": (lambda d: (d / "frontier.json").unlink(), "frontier.json is not a file"),
    "no-sensitivity": (lambda d: (d / "sensitivity.json").unlink(), "sensitivity.json is not a"),
    "nothing": (lambda d: [p.unlink() for p in d.iterdir()], "nothing to report"),
    "a-file": (lambda d: d.rename(d.with_name("x")) and d.write_text("x"), "is not a folder"),
    "torn": (lambda d: (d / "costs.json").write_text('{"units": '), "costs.*not valid JSON"),
    "histogram": (lambda d: (d / "histogram.json").write_text("[]"), "histogram"),
    "bench": (lambda d: (d / "bench.json").write_text('{"rows": 3}'), "bench"),
    "run": (lambda d: (d / "run.json").write_text("[1]"), "run.json is no JSON object"),
    "text-beyond": (
        lambda d: edit(d / "costs.json", kernels=[]), "names a text that is not there"
    ),
    "format-beyond": (
        lambda d: edit(d / "frontier.json", formats=["w8"]), "formats that are not there"
    ),
    "no-format": (lambda d: edit(d / "frontier.json", formats=["w3"] * 5), "frontier.json in"),
    "other-units": (lambda d: edit(d / "frontier.json", units=names(24)[12:]), "of different units"),  # noqa: E501
    "twice-a-unit": (
        lambda d: edit(d / "frontier.json", units=[*names(11), names(1)[0]]), "of different units"
    ),
}  # fmt: skip


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(("breaking", "says"), BROKEN.values(), ids=BROKEN)
def test_a_damaged_run_is_refused_in_one_line(
    run: Path, breaking: Callable[[Path], object], says: str
) -> None:
    breaking(run)
    with pytest.raises(PlanError, match=says) as refused:
        page(Run.load(run))
    assert "\n" not in str(refused.value)


def test_the_same_run_is_the_same_bytes(run: Path) -> None:
    first = write_report(Run.load(run)).read_bytes()
    assert write_report(Run.load(run)).read_bytes() == first


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    """The same tags and attributes' names as with harmless names."""
    evil = Page(page(Run.load(write_run(tmp_path / "e", list(EVIL), what=EVIL[0]))))
    good = Page(page(Run.load(write_run(tmp_path / "g", names(len(EVIL)), what="x"))))
    # Classes differ: where a block of layers begins is told by names.
    shapes = [[(tag, {*held} - {"class"}) for tag, held in p.tags] for p in (evil, good)]
    assert shapes[0] == shapes[1]
    policy = next(a["content"] for t, a in evil.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    assert "http" not in policy


def test_embedded_json_cannot_end_its_element() -> None:
    value = {"</script>": "<!--\u2028&'"}
    text = embedded(value)
    assert not set("<>&'\u2028") & set(text)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        ({"model": "a b:load", "pin": ["x=8", "y*=4"]},
         "mixq search --model 'a b:load' --pin x=8 --pin 'y*=4'"),
        ({"check": True, "sequential": False}, "mixq search --check --no-sequential"),
        ({}, "mixq search"),
        (None, "not recorded"),
        ({"model": "$(rm -rf /)\n"}, "mixq search --model '$(rm -rf /)\\n'"),
    ],
    ids=["words", "flags", "bare", "library", "hostile"],
)  # fmt: skip
def test_the_command_can_be_typed_again(request_: object, line: str) -> None:
    facts = {} if request_ is None else {"request": request_}
    assert command(facts).startswith(line)


def test_a_thousand_units_take_less_than_10_mb(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "big", names(1000), plans=300)
    assert write_report(Run.load(folder)).stat().st_size < 10_000_000
